using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// Random numbers for dropout that depend on nothing but a seed, the number of the micro-batch and the layer. A run
/// that is resumed needs only the number, and a layer that is recomputed (gradient checkpointing) draws the same mask.
/// </summary>
public sealed class DropoutSource : IDisposable
{
    private readonly SeededDraws _draws = new();

    /// <summary>Creates the source.</summary>
    public DropoutSource(long seed) => Seed = seed;

    /// <summary>The seed; a trainer sets it before its first micro-batch.</summary>
    public long Seed { get; set; }

    /// <summary>Number of the micro-batch, which the trainer advances and a checkpoint stores.</summary>
    public long MicroBatch { get; set; }

    /// <summary>Fills a tensor with ones, and zeros where something is dropped: always the same for this layer in this micro-batch.</summary>
    internal Tensor Mask(Tensor target, double keep, long layer) =>
        _draws.Bernoulli(target, keep, (long)(Mix(Mix(Mix((ulong)Seed) ^ (ulong)MicroBatch) ^ (ulong)layer) >> 1));

    /// <inheritdoc/>
    public void Dispose() => _draws.Dispose();

    // The finaliser of SplitMix64 (Steele et al. 2014): neighbouring numbers give unrelated seeds.
    private static ulong Mix(ulong value)
    {
        value += 0x9E3779B97F4A7C15;
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
        return value ^ (value >> 31);
    }
}
