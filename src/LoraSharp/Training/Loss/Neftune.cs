using LoraSharp.Layers;
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
    private const ulong Stream = 0x9E3779B97F4A7C15;
    private Generator? _generator;
    private long? _pass;

    /// <inheritdoc/>
    public IDisposable Begin(long pass)
    {
        _pass = pass;
        return new End(this);
    }

    /// <summary>The embeddings [b, s, d] with this pass's noise; the same tensor where there is none.</summary>
    internal Tensor Apply(Tensor embedded)
    {
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

        _generator.manual_seed((long)((((ulong)seed * Stream) ^ ((ulong)pass * 0xD1B54A32D192ED03)) >> 1));
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

/// <summary>Wraps the token embedding (the first one a model asks for) so that the noise can be added; the head tied to it is not touched.</summary>
/// <param name="inner">Makes the layers.</param>
/// <param name="noise">The noise, also given to the objective.</param>
public sealed class NeftuneFactory(ILinearFactory inner, NeftuneNoise noise) : ILinearFactory
{
    private bool _done;

    /// <inheritdoc/>
    public LinearLayer CreateLinear(LinearSpec spec, WeightReader weights) => inner.CreateLinear(spec, weights);

    /// <inheritdoc/>
    public EmbeddingLayer CreateEmbedding(EmbeddingSpec spec, WeightReader weights)
    {
        EmbeddingLayer made = inner.CreateEmbedding(spec, weights);
        if (_done)
        {
            return made;
        }

        _done = true;
        return new NoisyEmbedding(made, noise);
    }

    /// <inheritdoc/>
    public Tensor CreateParameter(string name, IReadOnlyList<long> shape, WeightReader weights) => inner.CreateParameter(name, shape, weights);

    private sealed class NoisyEmbedding(EmbeddingLayer inner, NeftuneNoise noise) : EmbeddingLayer(inner.Spec)
    {
        public override Tensor Weight => inner.Weight;

        public override IEnumerable<NamedTensor> Parameters => inner.Parameters;

        public override Tensor Forward(Tensor ids)
        {
            Tensor clean = inner.Forward(ids);
            Tensor noisy = noise.Apply(clean);
            if (!ReferenceEquals(noisy, clean))
            {
                clean.Dispose();
            }

            return noisy;
        }

        protected override void Dispose(bool disposing) => inner.Dispose();
    }
}
