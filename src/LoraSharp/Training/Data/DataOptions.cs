using System.Globalization;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;

namespace LoraSharp.Training.Data;

/// <summary>What of a row the loss is taken on.</summary>
public enum TrainOn
{
    /// <summary>The completion; of a chat every answer of the assistant.</summary>
    Assistant,

    /// <summary>The completion; of a chat the last answer only.</summary>
    Completions,

    /// <summary>Every token.</summary>
    All,
}

/// <summary>What happens to rows longer than <see cref="DataOptions.MaxLength"/>.</summary>
public enum LongRows
{
    /// <summary>They are cut at the end.</summary>
    Cut,

    /// <summary>They are left out.</summary>
    Drop,

    /// <summary>They go on in further rows: for running text.</summary>
    Split,
}

/// <summary>How instructions and prompts without a template become text.</summary>
public enum PromptStyle
{
    /// <summary>Prompts as they are; instructions in the words of Stanford Alpaca.</summary>
    Plain,

    /// <summary>As a user's message in the model's chat template.</summary>
    Chat,
}

/// <summary>One source of rows.</summary>
public sealed record DataSource
{
    /// <summary>A file, a folder or a pattern such as <c>data/*.jsonl.gz</c>.</summary>
    public required string Path { get; init; }

    /// <summary>How often its rows are drawn an epoch: 2 for twice, 0.5 for a fresh half of them each epoch.</summary>
    public double Weight { get; init; } = 1;

    /// <summary>Its format; null for <see cref="DataOptions.Format"/>.</summary>
    public DatasetFormat? Format { get; init; }

    /// <summary>Its columns; null for <see cref="DataOptions.Columns"/>.</summary>
    public IReadOnlyDictionary<string, string>? Columns { get; init; }

    /// <summary>At most this many rows; 0 for all.</summary>
    public int MaxSamples { get; init; }
}

/// <summary>Where validation rows come from: a share or number of the training rows, or files of their own.</summary>
public sealed record ValidationSource
{
    /// <summary>Share of the training rows, 0 to below 1; rounded up to whole rows.</summary>
    public double Share { get; init; }

    /// <summary>Number of training rows.</summary>
    public int Count { get; init; }

    /// <summary>Files of their own.</summary>
    public IReadOnlyList<DataSource> Sources { get; init; } = [];

    /// <summary>Whether there is no validation.</summary>
    public bool IsNone => Share == 0 && Count == 0 && Sources.Count == 0;

    /// <summary>Reads what a recipe says: <c>0.05</c>, <c>200</c>, a path, or <c>0</c> and nothing for none.</summary>
    /// <exception cref="LoraSharpException">A number that is neither a share nor a count.</exception>
    public static ValidationSource Parse(string? text)
    {
        if (string.IsNullOrWhiteSpace(text))
        {
            return new ValidationSource();
        }

        if (!double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double number))
        {
            return new ValidationSource { Sources = [new DataSource { Path = text }] };
        }

        return number is >= 0 and < 1 ? new ValidationSource { Share = number }
            : number >= 1 && number <= int.MaxValue && number == Math.Floor(number) ? new ValidationSource { Count = (int)number }
            : throw new LoraSharpException($"data.validation is {text}. Expected a share between 0 and 1, a whole number of rows, or a file.");
    }
}

/// <summary>Which rows a run sees and how they become tokens. Immutable; <see cref="Validate"/> lists every fault.</summary>
public sealed record DataOptions
{
    /// <summary>Training rows.</summary>
    public required IReadOnlyList<DataSource> Train { get; init; }

    /// <summary>Validation rows.</summary>
    public ValidationSource Validation { get; init; } = new();

    /// <summary>Format of the rows.</summary>
    public DatasetFormat Format { get; init; } = DatasetFormat.Auto;

    /// <summary>What asks for the format where the user did not name one, for errors: <c>preference.loss: kto</c>; null for nothing.</summary>
    public string? FormatAskedBy { get; init; }

    /// <summary>Longest row in tokens.</summary>
    public int MaxLength { get; init; } = 1024;

    /// <summary>What happens to longer rows.</summary>
    public LongRows LongRows { get; init; } = LongRows.Cut;

    /// <summary>What the loss is taken on.</summary>
    public TrainOn TrainOn { get; init; } = TrainOn.Assistant;

    /// <summary>Columns that are called otherwise, field → column.</summary>
    public IReadOnlyDictionary<string, string> Columns { get; init; } = new Dictionary<string, string>();

    /// <summary>Makes the prompt of columns in braces; null for the prompt column.</summary>
    public string? PromptTemplate { get; init; }

    /// <summary>Makes the completion likewise.</summary>
    public string? CompletionTemplate { get; init; }

    /// <summary>How prompts and instructions become text.</summary>
    public PromptStyle PromptStyle { get; init; } = PromptStyle.Plain;

    /// <summary>Use at most this many training rows, the first ones; 0 for all.</summary>
    public int MaxSamples { get; init; }

    /// <summary>Seed of the validation split.</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Threads that tokenize; the result does not depend on it.</summary>
    public int Workers { get; init; } = 1;

    /// <summary>Whether a validation set whose rows are all in the training set is accepted.</summary>
    public bool AllowOverlap { get; init; }

    /// <summary>Keep rows that came tokenized without the padding at their end.</summary>
    public bool TrimPadding { get; init; }

    /// <summary>Rows of the model's table of tokens: no id may reach it. 0 when it isn't known.</summary>
    public long VocabularySize { get; init; }

    /// <summary>Every fault of the options; empty when there is none.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> faults = [];
        void Check(bool good, string fault)
        {
            if (!good)
            {
                faults.Add(fault);
            }
        }

        Check(Train.Count > 0, "data.train names no file. Expected a file, a folder or a list of them.");
        foreach (DataSource source in Train.Concat(Validation.Sources))
        {
            Check(!string.IsNullOrWhiteSpace(source.Path), "a source under data.train or data.validation has no path.");
            Check(source.Weight > 0 && double.IsFinite(source.Weight) && source.Weight <= 1000, $"the weight of {source.Path} is {source.Weight.ToString(CultureInfo.InvariantCulture)}. Expected more than 0, at most 1000.");
            Check(source.MaxSamples >= 0, $"max_samples of {source.Path} is {source.MaxSamples}. Expected 0 (all) or more.");
        }

        Check(MaxLength >= 2, $"data.max_length is {MaxLength}. Expected at least 2: one token predicts the next.");
        Check(MaxSamples >= 0, $"data.max_samples is {MaxSamples}. Expected 0 (all) or more.");
        Check(Validation.Share is >= 0 and < 1, $"data.validation is {Validation.Share.ToString(CultureInfo.InvariantCulture)}. Expected a share from 0 to below 1.");
        Check(Validation.Count >= 0, $"data.validation is {Validation.Count}. Expected a number of rows from 0.");
        Check(Workers >= 1, $"data.workers is {Workers}. Expected at least 1.");
        foreach (string template in new[] { PromptTemplate, CompletionTemplate }.OfType<string>())
        {
            try
            {
                _ = new FieldTemplate(template);
            }
            catch (LoraSharpException error)
            {
                faults.Add(error.Message);
            }
        }

        return faults;
    }
}
