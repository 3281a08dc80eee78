using static TorchSharp.torch;

namespace LoraSharp.Training.Loss;

/// <summary>
/// NEFTune (Jain et al. 2023, arXiv 2310.05914): uniform noise in ±α/√(s·d) on the token embeddings while training.
/// </summary>
/// <param name="alpha">α, 5 to 15 in the paper.</param>
/// <param name="seed">Of the run.</param>
public sealed class NeftuneNoise(double alpha, long seed) : ITrainingNoise, IDisposable
{
    // Apart from the seeds that dropout makes of the same numbers.
    private const long Stream = -1;
    private Generator? _generator;
    private long? _pass;

    /// <inheritdoc/>
    public IDisposable Begin(long pass)
    {
        _pass = pass;
        return new End(this);
    }

    /// <inheritdoc/>
    public Tensor Embedded(Tensor embedded)
    {
        ArgumentNullException.ThrowIfNull(embedded);
        if (_pass is not { } pass || alpha == 0)
        {
            return embedded;
        }

        using var scope = NewDisposeScope();
        if (_generator is null || _generator.device.type != embedded.device.type)
        {
            _generator?.Dispose();
            _generator = new Generator(0, embedded.device);
        }

        _generator.manual_seed(PassSeed.Of(seed, pass, Stream));
        double size = alpha / Math.Sqrt(embedded.shape[^2] * embedded.shape[^1]);
        Tensor noise = empty_like(embedded, dtype: ScalarType.Float32, requires_grad: false).uniform_(-size, size, _generator);
        return (embedded + noise.to(embedded.dtype)).MoveToOuterDisposeScope();
    }

    /// <summary>Frees the generator.</summary>
    public void Dispose() => _generator?.Dispose();

    private sealed class End(NeftuneNoise noise) : IDisposable
    {
        public void Dispose() => noise._pass = null;
    }
}
