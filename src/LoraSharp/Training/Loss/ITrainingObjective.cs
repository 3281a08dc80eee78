using System.Text.Json.Nodes;
using LoraSharp.Training.Data;
using static TorchSharp.torch;

namespace LoraSharp.Training.Loss;

/// <summary>
/// What a run minimises. It does forward and backward of one micro-batch at once, so that it can free logits and
/// activations as early as it likes.
/// </summary>
public interface ITrainingObjective
{
    /// <summary>Whether the loss is a mean −log p of tokens, so that exp(loss) is a perplexity.</summary>
    bool IsLikelihood => false;

    /// <summary>What this micro-batch counts in the optimizer step: supervised tokens (or their weights), or pairs. Known before the pass.</summary>
    double Weight(MicroBatch batch);

    /// <summary>Adds the gradients of sum(losses) / <paramref name="stepWeight"/> to the trainable tensors.</summary>
    /// <param name="batch">Rows of one pass.</param>
    /// <param name="stepWeight">Weight of the whole optimizer step, all micro-batches together.</param>
    /// <param name="seed">Of everything random in this pass; equal seeds give equal passes.</param>
    MicroBatchLoss Backward(MicroBatch batch, double stepWeight, long seed);

    /// <summary>The same sums without gradients and without anything random.</summary>
    MicroBatchLoss Evaluate(MicroBatch batch);

    /// <summary>Adds to a step's means (or an evaluation's) what follows from them, e.g. the difference of two.</summary>
    void Derive(IDictionary<string, double> metrics)
    {
    }

    /// <summary>What it must remember from one step to the next, for a checkpoint; null for nothing.</summary>
    JsonObject? SaveState() => null;

    /// <summary>Goes back to what <see cref="SaveState"/> gave.</summary>
    void RestoreState(JsonObject state)
    {
    }
}

/// <summary>Sums over one micro-batch, still on the device.</summary>
public sealed class MicroBatchLoss : IDisposable
{
    /// <summary>What they are divided by.</summary>
    public required double Weight { get; init; }

    /// <summary>Scalar, float64: sum of the losses.</summary>
    public required Tensor Sum { get; init; }

    /// <summary>Loss of each sequence, summed over its tokens [sequences]; tells which row was at fault.</summary>
    public required Tensor BySequence { get; init; }

    /// <summary>Share of each sequence in <see cref="Weight"/> [sequences].</summary>
    public required IReadOnlyList<double> SequenceWeights { get; init; }

    /// <summary>
    /// More sums by name, e.g. <c>accuracy</c>, each divided by its weight for the report; scalars, float64. A micro-batch
    /// leaves out what it has no rows for.
    /// </summary>
    public IReadOnlyDictionary<string, Tensor> Metrics { get; init; } = new Dictionary<string, Tensor>();

    /// <summary>What a metric's sum is divided by, where it is not <see cref="Weight"/>: a mean over some of the rows.</summary>
    public IReadOnlyDictionary<string, double> MetricWeights { get; init; } = new Dictionary<string, double>();

    /// <summary>Frees the tensors.</summary>
    public void Dispose()
    {
        Sum.Dispose();
        BySequence.Dispose();
        foreach (Tensor metric in Metrics.Values)
        {
            metric.Dispose();
        }
    }
}
