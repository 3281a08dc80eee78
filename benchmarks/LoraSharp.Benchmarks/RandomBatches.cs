using LoraSharp.Training.Data;

namespace LoraSharp.Benchmarks;

/// <summary>Rows of random tokens, all of them targets.</summary>
internal sealed class RandomBatches(int vocabulary, int rows, int length) : IBatchSource
{
    private readonly Random _random = new(3);

    public long? StepsPerEpoch => 1000;

    public double Epoch => 0;

    public IReadOnlyList<MicroBatch> NextStep()
    {
        long[] ids = [.. Enumerable.Range(0, rows * length).Select(_ => (long)_random.Next(3, vocabulary))];
        return
        [
            new()
            {
                Rows = rows,
                Length = length,
                InputIds = ids,
                Labels = ids,
                Positions = [.. Enumerable.Range(0, rows * length).Select(i => (long)(i % length))],
                Sequences = [.. Enumerable.Repeat(1, rows * length)],
                Origins = ["random"],
            },
        ];
    }

    public System.Text.Json.Nodes.JsonObject SaveState() => [];

    public void RestoreState(System.Text.Json.Nodes.JsonObject state)
    {
    }

    public void Dispose()
    {
    }
}
