using System.Text.Json.Nodes;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

/// <summary>A bigram model, small enough to train in microseconds, with dropout that depends on the pass number alone.</summary>
internal sealed class ToyModel : ITrainingObjective, IDisposable
{
    public const int Vocabulary = 11, Width = 6;
    private readonly Tensor _table;
    private readonly Tensor _head;
    private readonly double _dropout;

    public ToyModel(double dropout = 0)
    {
        NativeRuntime.EnsureLoaded();
        var random = new Generator(1);
        _table = randn([Vocabulary, Width], generator: random).requires_grad_();
        _head = randn([Vocabulary, Width], generator: random).requires_grad_();
        _dropout = dropout;
    }

    public IReadOnlyList<NamedTensor> Parameters => [new("table", _table), new("head", _head)];

    /// <summary>Makes the loss of a token NaN from the given pass on.</summary>
    public long NaNFrom { get; set; } = long.MaxValue;

    public double Weight(MicroBatch batch) => TargetTokens.Of(batch).Weight;

    public MicroBatchLoss Backward(MicroBatch batch, double stepWeight, long seed)
    {
        using var scope = NewDisposeScope();
        TargetTokens targets = TargetTokens.Of(batch);
        Tensor hidden = Hidden(batch, targets, seed);
        Tensor gradient = Loss(false).Backward(hidden, tensor(targets.Ids), null, 1 / stepWeight, out Tensor losses);
        hidden.backward([gradient]);
        return Sums(targets, losses);
    }

    public MicroBatchLoss Evaluate(MicroBatch batch)
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        TargetTokens targets = TargetTokens.Of(batch);
        return Sums(targets, Loss(true).Losses(Hidden(batch, targets, null), tensor(targets.Ids), false, out _));
    }

    public float[] Values() => [.. Parameters.SelectMany(p => p.Value.detach().data<float>().ToArray())];

    public void Dispose()
    {
        _table.Dispose();
        _head.Dispose();
    }

    private static MicroBatchLoss Sums(TargetTokens targets, Tensor losses) => new()
    {
        Weight = targets.Weight,
        Sum = losses.sum(float64).MoveToOuterDisposeScope(),
        BySequence = targets.SumBySequence(losses).MoveToOuterDisposeScope(),
        SequenceWeights = targets.SequenceWeights(),
    };

    private ChunkedCrossEntropy Loss(bool frozen) => new(h => h.matmul(_head.t()), frozen, Vocabulary, 1);

    private Tensor Hidden(MicroBatch batch, TargetTokens targets, long? seed)
    {
        Tensor hidden = _table.index_select(0, tensor(batch.InputIds).index_select(0, tensor(targets.Positions)));
        if (seed is { } number)
        {
            hidden = _dropout == 0 ? hidden : hidden * empty_like(hidden).bernoulli_(1 - _dropout, new Generator((ulong)number + 7));
            hidden = number >= NaNFrom ? hidden * float.NaN : hidden;
        }

        return hidden;
    }
}

/// <summary>Rows of a fixed chain of tokens in a seeded order, epoch after epoch.</summary>
internal sealed class ToyBatches(int rows, int microBatches, double epochs = 1000) : IBatchSource
{
    public const int Rows = 12;
    private long _step;

    public long? StepsPerEpoch => Rows / (rows * microBatches);

    public double Epoch => _step / (double)StepsPerEpoch!.Value;

    public IReadOnlyList<MicroBatch> NextStep()
    {
        if (Epoch >= epochs)
        {
            return [];
        }

        int[] order = [.. Enumerable.Range(0, Rows)];
        new Random((int)(_step / StepsPerEpoch!.Value)).Shuffle(order);
        int start = (int)(_step++ % StepsPerEpoch.Value) * rows * microBatches;
        return [.. Enumerable.Range(0, microBatches).Select(m => Batch(order.AsSpan(start + (m * rows), rows).ToArray()))];
    }

    public static MicroBatch Batch(params int[] numbers)
    {
        // Rows of different lengths: only a mean over tokens is the same however they are grouped.
        const int Length = 9;
        MicroBatch batch = new()
        {
            Rows = numbers.Length,
            Length = Length,
            InputIds = new long[numbers.Length * Length],
            Labels = new long[numbers.Length * Length],
            Positions = new long[numbers.Length * Length],
            Sequences = new int[numbers.Length * Length],
            Origins = [.. numbers.Select(n => $"toy.jsonl:{n + 1}")],
        };
        for (int row = 0; row < numbers.Length; row++)
        {
            int length = 3 + (numbers[row] % 6);
            for (int t = 0; t < Length; t++)
            {
                int at = (row * Length) + t;
                bool real = t < length;
                batch.InputIds[at] = real ? ((numbers[row] * 5) + (t * t)) % ToyModel.Vocabulary : 0;
                batch.Labels[at] = real && t > 0 ? batch.InputIds[at] : TrainingExample.Ignored;
                batch.Positions[at] = t;
                batch.Sequences[at] = real ? 1 : 0;
            }
        }

        return batch;
    }

    public JsonObject SaveState() => new() { ["step"] = _step };

    public void RestoreState(JsonObject state) => _step = (long)state["step"]!;

    public void Dispose()
    {
    }
}
