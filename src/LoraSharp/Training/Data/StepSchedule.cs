using System.Globalization;
using System.Text.Json.Nodes;
using LoraSharp.Formats;

namespace LoraSharp.Training.Data;

/// <summary>How full the rows of an epoch's micro-batches are.</summary>
/// <param name="Examples">Examples of the epoch.</param>
/// <param name="Rows">Rows they are laid out in.</param>
/// <param name="Tokens">Tokens that are no padding.</param>
/// <param name="PaddedTokens">Tokens with padding, as the model computes them.</param>
public sealed record PackingReport(long Examples, long Rows, long Tokens, long PaddedTokens)
{
    /// <summary>Share of what the model computes that is padding.</summary>
    public double Waste => PaddedTokens == 0 ? 0 : 1 - ((double)Tokens / PaddedTokens);

    /// <summary>Examples in a row.</summary>
    public double ExamplesPerRow => Rows == 0 ? 0 : (double)Examples / Rows;
}

/// <summary>Which items make up each optimizer step, as numbers: order, epochs, accumulation and state, without tokens.</summary>
internal sealed class StepSchedule
{
    private readonly Func<int, int> _length;
    private readonly IReadOnlyList<SourceRange> _sources;
    private readonly BatchOptions _options;
    private readonly ulong _fingerprint;
    private EpochPlan _plan;
    private long _epoch;
    private long _stepInEpoch;
    private long _step;

    public StepSchedule(int count, Func<int, int> length, BatchOptions options, ulong fingerprint, IReadOnlyList<SourceRange>? sources)
    {
        IReadOnlyList<string> faults = options.Validate();
        if (faults.Count > 0)
        {
            throw new LoraSharpException(string.Join(Environment.NewLine, faults));
        }

        _length = length;
        _options = options;
        _fingerprint = fingerprint;
        _sources = sources ?? [new SourceRange(0, count, 1)];
        _plan = Plan(0);
        if (_plan.Rows == 0)
        {
            throw new LoraSharpException("there are no rows to train on: the data set is empty, or every row was dropped. Look at it with: lora data preview RECIPE.yaml");
        }

        TotalSteps = CountSteps();
    }

    public long StepsPerEpoch => Steps(_plan);

    public long TotalSteps { get; }

    public double Epoch => _epoch + ((double)_stepInEpoch / StepsPerEpoch);

    /// <summary>Micro-batches of rows of item numbers; empty at the end of the run.</summary>
    public IReadOnlyList<int[][]> NextStep()
    {
        if (_step >= TotalSteps)
        {
            return [];
        }

        if (_stepInEpoch == StepsPerEpoch)
        {
            _epoch++;
            _stepInEpoch = 0;
            _plan = Plan(_epoch);
        }

        int rowsOfStep = checked(_options.BatchSize * _options.GradientAccumulation);
        long first = _stepInEpoch * rowsOfStep;
        long end = Math.Min(first + rowsOfStep, _plan.Rows);
        List<int[][]> batches = [];
        for (long start = first; start < end; start += _options.BatchSize)
        {
            int[][] rows = new int[Math.Min(_options.BatchSize, end - start)][];
            for (int i = 0; i < rows.Length; i++)
            {
                rows[i] = _plan.Row((int)start + i).ToArray();
            }

            batches.Add(rows);
        }

        _stepInEpoch++;
        _step++;
        return batches;
    }

    public JsonObject SaveState() => new()
    {
        ["version"] = 1,
        ["epoch"] = _epoch,
        ["step_in_epoch"] = _stepInEpoch,
        ["step"] = _step,
        ["data"] = _fingerprint.ToString("x16", CultureInfo.InvariantCulture),
        ["batch_size"] = _options.BatchSize,
        ["gradient_accumulation"] = _options.GradientAccumulation,
        ["seed"] = _options.Seed,
        ["shuffle"] = _options.Shuffle,
        ["packing"] = _options.Packing,
        ["group_by_length"] = _options.GroupByLength,
        ["max_length"] = _options.MaxLength,
    };

    public void RestoreState(JsonObject state)
    {
        JsonObject now = SaveState();
        List<string> differences = [];
        foreach ((string name, JsonNode? value) in now)
        {
            if (name is "epoch" or "step" or "step_in_epoch")
            {
                continue;
            }

            // The window only decides the order when rows are packed.
            string saved = state[name]?.ToJsonString() ?? "nothing";
            if (saved != value!.ToJsonString() && (name != "max_length" || _options.Packing))
            {
                differences.Add(name == "data" ? "the training rows are not those of the checkpoint (other files, columns, template, tokenizer or max_length)" : $"{name} is {value.ToJsonString()}, the checkpoint has {saved}");
            }
        }

        if (differences.Count > 0)
        {
            throw new LoraSharpException($"the run can't be resumed exactly: {string.Join("; ", differences)}. Restore these settings or start over in another output folder.");
        }

        _epoch = (long)state["epoch"]!;
        _stepInEpoch = (long)state["step_in_epoch"]!;
        _step = (long)state["step"]!;
        _plan = Plan(_epoch);
    }

    public PackingReport Packing()
    {
        EpochPlan plan = Plan(0);
        long examples = 0;
        long tokens = 0;
        long padded = 0;
        for (int start = 0; start < plan.Rows; start += _options.BatchSize)
        {
            int rows = Math.Min(_options.BatchSize, plan.Rows - start);
            long longest = 0;
            for (int row = start; row < start + rows; row++)
            {
                long length = 0;
                foreach (int item in plan.Row(row))
                {
                    length += _length(item);
                    examples++;
                }

                tokens += length;
                longest = Math.Max(longest, length);
            }

            longest = _options.PadToMaxLength ? Math.Max(longest, _options.MaxLength) : longest;
            padded += rows * ((longest + _options.PadToMultipleOf - 1) / _options.PadToMultipleOf * _options.PadToMultipleOf);
        }

        return new PackingReport(examples, plan.Rows, tokens, padded);
    }

    private EpochPlan Plan(long epoch) => EpochPlan.Build(_length, _sources, _options, epoch);

    private long Steps(EpochPlan plan)
    {
        long rows = (long)_options.BatchSize * _options.GradientAccumulation;
        return (plan.Rows + rows - 1) / rows;
    }

    private long CountSteps()
    {
        if (_options.MaxSteps > 0)
        {
            return _options.MaxSteps;
        }

        // Packing fills a different number of windows in each epoch's order, unless all rows are looked at at once.
        long whole = (long)Math.Floor(_options.Epochs);
        double rest = _options.Epochs - whole;
        bool varies = _options.Packing && (_sources.Sum(s => s.Weight * s.Count) > _options.PackingWindow || _sources.Any(s => s.Weight != Math.Floor(s.Weight)));
        long total = 0;
        for (long epoch = 0; epoch < whole; epoch++)
        {
            total += Steps(varies && epoch > 0 ? Plan(epoch) : _plan);
        }

        return total + (rest == 0 ? 0 : (long)Math.Ceiling(rest * Steps(varies && whole > 0 ? Plan(whole) : _plan)));
    }
}
