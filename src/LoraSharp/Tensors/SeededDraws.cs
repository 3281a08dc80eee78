using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Tensors;

/// <summary>Random numbers in place, on any device, each draw from a seed of its own.</summary>
/// <remarks>
/// TorchSharp makes generators on the CPU whatever device is asked for: on a GPU the device's own is seeded before the draw.
/// </remarks>
internal sealed class SeededDraws : IDisposable
{
    private Generator? _generator;

    /// <summary>1 with a probability, else 0.</summary>
    public Tensor Bernoulli(Tensor target, double probability, long seed) =>
        Generator(target, seed) is { } generator ? target.bernoulli_(probability, generator) : target.bernoulli_(probability);

    /// <summary>Evenly spread numbers.</summary>
    public Tensor Uniform(Tensor target, double from, double to, long seed) =>
        Generator(target, seed) is { } generator ? target.uniform_(from, to, generator) : target.uniform_(from, to);

    /// <inheritdoc/>
    public void Dispose() => _generator?.Dispose();

    // Null where the device's own is used.
    private Generator? Generator(Tensor target, long seed)
    {
        if (target.device_type == DeviceType.CUDA)
        {
            TorchSharp.torch.cuda.manual_seed_all(seed);
            return null;
        }

        _generator ??= new Generator(0, CPU);
        _generator.manual_seed(seed);
        return _generator;
    }
}
