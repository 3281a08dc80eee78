using System.Text.Json.Nodes;
using LoraSharp.Formats;

namespace LoraSharp.Training.Data;

/// <summary>
/// Micro-batches for KTO (Ethayarajh et al. 2024): n rows give 2n, first the rows with their verdicts, then each prompt with
/// the answer of the row after it (the last with the first's), from which the loss estimates its reference point.
/// </summary>
public sealed class KtoPlanner : IBatchSource
{
    private readonly IExamples _examples;
    private readonly IReadOnlyList<bool> _verdicts;
    private readonly BatchOptions _options;
    private readonly StepSchedule _schedule;

    /// <summary>Creates a planner.</summary>
    /// <param name="examples">Prompts with answers.</param>
    /// <param name="verdicts">For each whether its answer is good.</param>
    /// <param name="options">How they are batched; <see cref="BatchOptions.BatchSize"/> counts rows without the mismatched ones.</param>
    /// <param name="sources">Which rows are which source's; null for one source of weight 1.</param>
    /// <exception cref="LoraSharpException">The options have faults, packing is on, a batch holds one row only, or there are no rows.</exception>
    public KtoPlanner(IExamples examples, IReadOnlyList<bool> verdicts, BatchOptions options, IReadOnlyList<SourceRange>? sources = null)
    {
        if (options.Packing)
        {
            throw new LoraSharpException("data.packing is on, and KTO rows are not packed. Set data.packing to false.");
        }

        if (options.BatchSize < 2)
        {
            throw new LoraSharpException("training.batch_size is 1. KTO compares each answer with another row's: expected at least 2.");
        }

        _examples = examples;
        _verdicts = verdicts;
        _options = options;
        _schedule = new StepSchedule(examples.Count, examples.Length, options, examples.Fingerprint, sources);
    }

    /// <inheritdoc/>
    public long? StepsPerEpoch => _schedule.StepsPerEpoch;

    /// <inheritdoc/>
    public long? TotalSteps => _schedule.TotalSteps;

    /// <inheritdoc/>
    public double Epoch => _schedule.Epoch;

    /// <inheritdoc/>
    public IReadOnlyList<MicroBatch> NextStep() => [.. _schedule.NextStep().Select(rows => Batch(_examples, _verdicts, [.. rows.Select(r => r[0])], _options.PadTokenId))];

    /// <summary>All rows once, in order, for evaluation.</summary>
    /// <param name="examples">Prompts with answers.</param>
    /// <param name="verdicts">For each whether its answer is good.</param>
    /// <param name="batchSize">Rows of a micro-batch, without the mismatched ones.</param>
    /// <param name="padTokenId">Id that padding holds.</param>
    public static IEnumerable<MicroBatch> InOrder(IExamples examples, IReadOnlyList<bool> verdicts, int batchSize, int padTokenId = 0)
    {
        for (int start = 0; start < examples.Count; start += batchSize)
        {
            yield return Batch(examples, verdicts, [.. Enumerable.Range(start, Math.Min(batchSize, examples.Count - start))], padTokenId);
        }
    }

    /// <inheritdoc/>
    public JsonObject SaveState() => _schedule.SaveState();

    /// <inheritdoc/>
    public void RestoreState(JsonObject state) => _schedule.RestoreState(state);

    /// <inheritdoc/>
    public void Dispose()
    {
    }

    private static MicroBatch Batch(IExamples examples, IReadOnlyList<bool> verdicts, int[] indices, int padTokenId)
    {
        TrainingExample[] rows = [.. indices.Select(i => examples[i])];
        TrainingExample[] mismatched = [.. rows.Select((row, i) => Join(row, rows[(i + 1) % rows.Length]))];
        return MicroBatchBuilder.Build([.. rows, .. mismatched], padTokenId) with { Desirable = [.. indices.Select(i => verdicts[i])] };
    }

    private static TrainingExample Join(TrainingExample prompt, TrainingExample answer)
    {
        int head = Begin(prompt);
        int tail = Begin(answer);
        return new TrainingExample
        {
            InputIds = [.. prompt.InputIds[..head], .. answer.InputIds[tail..]],
            Labels = [.. prompt.Labels[..head], .. answer.Labels[tail..]],
            Origin = $"{prompt.Origin} + {answer.Origin}",
        };
    }

    private static int Begin(TrainingExample example) => Array.FindIndex(example.Labels, l => l != TrainingExample.Ignored);
}
