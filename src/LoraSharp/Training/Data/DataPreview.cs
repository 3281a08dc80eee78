using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Training.Data;

/// <summary>A token as the model sees it.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Text">What it adds to the text; empty while a character is not complete.</param>
/// <param name="Trained">Whether the loss is taken on it.</param>
/// <param name="Weight">Its weight in the loss; 0 when not trained on.</param>
public sealed record PreviewToken(int Id, string Text, bool Trained, float Weight);

/// <summary>A row as the model sees it.</summary>
/// <param name="Origin">Where it came from.</param>
/// <param name="Role">chosen, rejected, desirable or undesirable; null for a plain row.</param>
/// <param name="TrainedTokens">Tokens that are trained on.</param>
/// <param name="Tokens">All its tokens.</param>
public sealed record PreviewRow(string Origin, string? Role, int TrainedTokens, IReadOnlyList<PreviewToken> Tokens);

/// <summary>A stretch of lengths in a histogram.</summary>
/// <param name="From">Shortest length, included.</param>
/// <param name="To">Longest length, included.</param>
/// <param name="Rows">Rows of these lengths.</param>
public sealed record LengthBin(int From, int To, int Rows);

/// <summary>How long the rows of a split are, in tokens.</summary>
public sealed record LengthSummary
{
    private LengthSummary()
    {
    }

    /// <summary>Examples (of preference rows twice their number).</summary>
    public required int Examples { get; init; }

    /// <summary>Tokens of all.</summary>
    public required long Tokens { get; init; }

    /// <summary>Tokens that are trained on.</summary>
    public required long TrainedTokens { get; init; }

    /// <summary>Shortest.</summary>
    public required int Shortest { get; init; }

    /// <summary>Median.</summary>
    public required int Median { get; init; }

    /// <summary>19 of 20 are no longer than this.</summary>
    public required int Percentile95 { get; init; }

    /// <summary>Longest.</summary>
    public required int Longest { get; init; }

    /// <summary>Mean.</summary>
    public double Mean => Examples == 0 ? 0 : (double)Tokens / Examples;

    /// <summary>Ten stretches of equal width from 1 to the longest.</summary>
    public required IReadOnlyList<LengthBin> Histogram { get; init; }

    /// <summary>Counts over examples.</summary>
    public static LengthSummary Of(IExamples examples)
    {
        int[] lengths = [.. Enumerable.Range(0, examples.Count).Select(examples.Length).Order()];
        long trained = 0;
        for (int i = 0; i < examples.Count; i++)
        {
            trained += examples[i].TargetTokens;
        }

        int longest = lengths[^1];
        int width = Math.Max(1, (longest + 9) / 10);
        var bins = new int[(longest + width - 1) / width];
        foreach (int length in lengths)
        {
            bins[Math.Max(0, length - 1) / width]++;
        }

        return new LengthSummary
        {
            Examples = examples.Count,
            Tokens = lengths.Sum(l => (long)l),
            TrainedTokens = trained,
            Shortest = lengths[0],
            Median = lengths[(lengths.Length - 1) / 2],
            Percentile95 = lengths[(int)Math.Ceiling(0.95 * lengths.Length) - 1],
            Longest = longest,
            Histogram = [.. bins.Select((rows, i) => new LengthBin((i * width) + 1, Math.Min(longest, (i + 1) * width), rows))],
        };
    }
}

/// <summary>What a run would see: rows token by token, lengths, what is cut or dropped, how batches fill.</summary>
/// <param name="Rows">The first training rows, in the order of the files.</param>
/// <param name="Train">Lengths of the training rows.</param>
/// <param name="Validation">Lengths of the validation rows; null for none.</param>
/// <param name="Report">What became of the rows.</param>
/// <param name="Packed">How the run's rows fill the batches.</param>
/// <param name="Padded">How they would with padding alone, in the same order; null when the run does not pack.</param>
/// <param name="StepsPerEpoch">Optimizer steps of an epoch.</param>
/// <param name="TotalSteps">Optimizer steps of the run.</param>
public sealed record DataPreview(IReadOnlyList<PreviewRow> Rows, LengthSummary Train, LengthSummary? Validation, DataReport Report, PackingReport? Packed, PackingReport? Padded, long StepsPerEpoch, long TotalSteps)
{
    /// <summary>How many times fewer tokens the model computes than with padding alone; null when the run does not pack.</summary>
    public double? Saving => Packed is { PaddedTokens: > 0 } packed && Padded is { } padded ? (double)padded.PaddedTokens / packed.PaddedTokens : null;

    /// <summary>Looks at loaded data.</summary>
    /// <param name="data">The data.</param>
    /// <param name="options">How it would be batched.</param>
    /// <param name="tokenizer">For the text of tokens; null shows ids alone.</param>
    /// <param name="rows">How many rows to show.</param>
    public static DataPreview Of(TrainingData data, BatchOptions options, Tokenizer? tokenizer, int rows = 3)
    {
        bool pairs = data.Kind == ExampleKind.Preference;
        int shown = Math.Min(data.Train.Count, rows * (pairs ? 2 : 1));
        PackingReport? packed = null;
        PackingReport? padded = null;
        IBatchSource source;
        if (data.Kind == ExampleKind.Plain)
        {
            var planner = new BatchPlanner(data.Train, options, data.Sources);
            source = planner;
            packed = planner.Packing();
            padded = options.Packing ? new BatchPlanner(data.Train, options with { Packing = false }, data.Sources).Packing() : null;
        }
        else
        {
            source = pairs ? new PairPlanner(data.Train, options, data.Sources) : new KtoPlanner(data.Train, data.TrainVerdicts, options, data.Sources);
        }

        using (source)
        {
            return new DataPreview(
                [.. Enumerable.Range(0, shown).Select(i => Row(data.Train[i], Role(data, i), tokenizer))],
                LengthSummary.Of(data.Train),
                data.Validation is { } validation ? LengthSummary.Of(validation) : null,
                data.Report,
                packed,
                padded,
                source.StepsPerEpoch!.Value,
                source.TotalSteps!.Value);
        }
    }

    private static string? Role(TrainingData data, int index) => data.Kind switch
    {
        ExampleKind.Preference => index % 2 == 0 ? "chosen" : "rejected",
        ExampleKind.Kto => data.TrainVerdicts[index] ? "desirable" : "undesirable",
        _ => null,
    };

    private static PreviewRow Row(TrainingExample example, string? role, Tokenizer? tokenizer)
    {
        StreamingDecoder? decoder = tokenizer is null ? null : new StreamingDecoder(tokenizer, skipSpecial: false);
        var tokens = new PreviewToken[example.InputIds.Length];
        for (int i = 0; i < tokens.Length; i++)
        {
            int id = example.InputIds[i];
            string text = decoder?.Add(id) ?? "";
            text = i == tokens.Length - 1 && decoder is not null ? text + decoder.Flush() : text;
            // Nothing predicts the first token.
            bool trained = i > 0 && example.Labels[i] != TrainingExample.Ignored;
            tokens[i] = new PreviewToken(id, text, trained, trained ? example.Weights?[i] ?? 1 : 0);
        }

        return new PreviewRow(example.Origin, role, example.TargetTokens, tokens);
    }
}
