using System.Text.Json.Nodes;
using LoraSharp.Formats;

namespace LoraSharp.Training.Data;

/// <summary>
/// Micro-batches of preference pairs: n pairs give 2n rows, the chosen answers first, the rejected ones after them in the
/// same order, so that row i and row n + i belong together.
/// </summary>
public sealed class PairPlanner : IBatchSource
{
    private readonly IExamples _examples;
    private readonly BatchOptions _options;
    private readonly StepSchedule _schedule;

    /// <summary>Creates a planner.</summary>
    /// <param name="examples">Chosen and rejected in turns.</param>
    /// <param name="options">How they are batched; <see cref="BatchOptions.BatchSize"/> counts pairs.</param>
    /// <param name="sources">Which pairs are which source's; null for one source of weight 1.</param>
    /// <exception cref="LoraSharpException">The options have faults, packing is on, or there are no pairs.</exception>
    public PairPlanner(IExamples examples, BatchOptions options, IReadOnlyList<SourceRange>? sources = null)
    {
        if (options.Packing)
        {
            throw new LoraSharpException("data.packing is on, and preference rows are not packed: their two answers are compared row by row. Set data.packing to false.");
        }

        _examples = examples;
        _options = options;
        _schedule = new StepSchedule(examples.Count / 2, i => Math.Max(examples.Length(2 * i), examples.Length((2 * i) + 1)), options, examples.Fingerprint, sources);
    }

    /// <inheritdoc/>
    public long? StepsPerEpoch => _schedule.StepsPerEpoch;

    /// <inheritdoc/>
    public long? TotalSteps => _schedule.TotalSteps;

    /// <inheritdoc/>
    public double Epoch => _schedule.Epoch;

    /// <inheritdoc/>
    public IReadOnlyList<MicroBatch> NextStep() => [.. _schedule.NextStep().Select(rows => Pairs([.. rows.Select(r => r[0])]))];

    /// <summary>All pairs once, in order, for evaluation.</summary>
    /// <param name="examples">Chosen and rejected in turns.</param>
    /// <param name="batchSize">Pairs of a micro-batch.</param>
    /// <param name="padTokenId">Id that padding holds.</param>
    public static IEnumerable<MicroBatch> InOrder(IExamples examples, int batchSize, int padTokenId = 0)
    {
        for (int start = 0; start < examples.Count / 2; start += batchSize)
        {
            yield return Pairs(examples, [.. Enumerable.Range(start, Math.Min(batchSize, (examples.Count / 2) - start))], padTokenId, 1);
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

    private MicroBatch Pairs(int[] pairs) => Pairs(_examples, pairs, _options.PadTokenId, _options.PadToMultipleOf);

    private static MicroBatch Pairs(IExamples examples, int[] pairs, int padTokenId, int multipleOf) =>
        MicroBatchBuilder.Build([.. pairs.Select(p => examples[2 * p]).Concat(pairs.Select(p => examples[(2 * p) + 1])).Select(e => (IReadOnlyList<TrainingExample>)[e])], padTokenId, 0, multipleOf);
}
