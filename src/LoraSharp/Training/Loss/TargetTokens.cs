using LoraSharp.Training.Data;
using static TorchSharp.torch;

namespace LoraSharp.Training.Loss;

/// <summary>
/// The supervised tokens of a micro-batch, shifted by one: position t predicts label t + 1. Found on the host, so that
/// nothing waits for the device, and only their hidden states go through the head.
/// </summary>
public sealed class TargetTokens
{
    private TargetTokens(long[] positions, long[] ids, int[] sequences, float[]? weights, int sequenceCount)
    {
        Positions = positions;
        Ids = ids;
        Sequences = sequences;
        Weights = weights;
        SequenceCount = sequenceCount;
    }

    /// <summary>Index into the flattened [b·s] of the position that predicts.</summary>
    public long[] Positions { get; }

    /// <summary>The token to predict.</summary>
    public long[] Ids { get; }

    /// <summary>Running number of the sequence in the micro-batch, from 0.</summary>
    public int[] Sequences { get; }

    /// <summary>Factors on the losses; null for 1 everywhere.</summary>
    public float[]? Weights { get; }

    /// <summary>Sequences of the micro-batch, several a row when packed.</summary>
    public int SequenceCount { get; }

    /// <summary>Number of supervised tokens.</summary>
    public int Count => Ids.Length;

    /// <summary>What the losses are divided by: their number, or the sum of their weights.</summary>
    public double Weight => Weights is null ? Count : Weights.Sum(w => (double)w);

    /// <summary>Share of each sequence in <see cref="Weight"/>.</summary>
    public double[] SequenceWeights()
    {
        double[] sums = new double[SequenceCount];
        for (int i = 0; i < Sequences.Length; i++)
        {
            sums[Sequences[i]] += Weights is null ? 1 : Weights[i];
        }

        return sums;
    }

    /// <summary>Finds them.</summary>
    public static TargetTokens Of(MicroBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        List<long> positions = [], ids = [];
        List<int> sequences = [];
        List<float>? weights = batch.Weights is null ? null : [];
        int sequence = -1;
        for (int row = 0; row < batch.Rows; row++)
        {
            for (int t = 0; t < batch.Length; t++)
            {
                int at = (row * batch.Length) + t;
                bool isFirst = t == 0 || batch.Sequences[at] != batch.Sequences[at - 1];
                if (batch.Sequences[at] != 0 && isFirst)
                {
                    sequence++;
                }

                // The first token of a sequence has nothing before it that could predict it, whatever its label says.
                if (isFirst || batch.Labels[at] == TrainingExample.Ignored)
                {
                    continue;
                }

                positions.Add(at - 1);
                ids.Add(batch.Labels[at]);
                sequences.Add(sequence);
                weights?.Add(batch.Weights![at]);
            }
        }

        return new TargetTokens([.. positions], [.. ids], [.. sequences], weights?.ToArray(), sequence + 1);
    }

    /// <summary>The hidden states [n, d] of the predicting positions out of [b, s, d].</summary>
    public Tensor Select(Tensor hidden)
    {
        ArgumentNullException.ThrowIfNull(hidden);
        using var scope = NewDisposeScope();
        Tensor index = tensor(Positions, ScalarType.Int64, device: hidden.device);
        return hidden.reshape(-1, hidden.shape[^1]).index_select(0, index).MoveToOuterDisposeScope();
    }

    /// <summary>Sums of per-token values [n] by sequence [sequences].</summary>
    public Tensor SumBySequence(Tensor values)
    {
        ArgumentNullException.ThrowIfNull(values);
        using var scope = NewDisposeScope();
        Tensor index = tensor(Sequences, ScalarType.Int64, device: values.device);
        return zeros(SequenceCount, values.dtype, values.device).index_add(0, index, values, 1).MoveToOuterDisposeScope();
    }
}
