using System.Text.Json.Nodes;
using LoraSharp.Formats;

namespace LoraSharp.Training.Data;

/// <summary>
/// The micro-batches of a run: examples in seeded order, padded or packed, grouped into optimizer steps. The last step of an
/// epoch may be smaller; epochs never mix. Its state is a position: the order follows from data, options, seed and epoch.
/// </summary>
public sealed class BatchPlanner : IBatchSource
{
    private readonly IExamples _examples;
    private readonly StepSchedule _schedule;
    private readonly BatchOptions _options;

    /// <summary>Creates a planner.</summary>
    /// <param name="examples">The examples; not disposed with the planner.</param>
    /// <param name="options">How they are batched.</param>
    /// <param name="sources">Which examples are which source's, with weights; null for one source of weight 1.</param>
    /// <exception cref="LoraSharpException">The options have faults, or there are no examples.</exception>
    public BatchPlanner(IExamples examples, BatchOptions options, IReadOnlyList<SourceRange>? sources = null)
    {
        _examples = examples;
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
    public IReadOnlyList<MicroBatch> NextStep() =>
        [.. _schedule.NextStep().Select(rows => MicroBatchBuilder.Build(
            [.. rows.Select(row => (IReadOnlyList<TrainingExample>)[.. row.Select(i => _examples[i])])],
            _options.PadTokenId,
            _options.PadToMaxLength ? _options.MaxLength : 0,
            _options.PadToMultipleOf))];

    /// <inheritdoc/>
    public JsonObject SaveState() => _schedule.SaveState();

    /// <inheritdoc/>
    public void RestoreState(JsonObject state) => _schedule.RestoreState(state);

    /// <inheritdoc/>
    public void Dispose()
    {
    }

    /// <summary>How the first epoch fills its rows, for reports.</summary>
    public PackingReport Packing() => _schedule.Packing();

    /// <summary>All examples once, in order, for evaluation: padded micro-batches of at most <paramref name="batchSize"/> rows.</summary>
    public static IEnumerable<MicroBatch> InOrder(IExamples examples, int batchSize, int padTokenId = 0)
    {
        for (int start = 0; start < examples.Count; start += batchSize)
        {
            yield return MicroBatchBuilder.Build([.. Enumerable.Range(start, Math.Min(batchSize, examples.Count - start)).Select(i => examples[i])], padTokenId);
        }
    }
}
