using LoraSharp.Tensors;
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
    private readonly SeededDraws _draws = new();
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
        double size = alpha / Math.Sqrt(embedded.shape[^2] * embedded.shape[^1]);
        Tensor noise = _draws.Uniform(empty_like(embedded, dtype: ScalarType.Float32, requires_grad: false), -size, size, PassSeed.Of(seed, pass, Stream));
        return (embedded + noise.to(embedded.dtype)).MoveToOuterDisposeScope();
    }

    /// <summary>Frees the generator.</summary>
    public void Dispose() => _draws.Dispose();

    private sealed class End(NeftuneNoise noise) : IDisposable
    {
        public void Dispose() => noise._pass = null;
    }
}
