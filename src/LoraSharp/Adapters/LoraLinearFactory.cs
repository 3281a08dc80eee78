using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// Wraps the layers of an inner factory, so that adapters can be made, loaded, switched and removed at any time after
/// the model is built: <c>new LoraLinearFactory(adapters, new DenseLinearFactory())</c>.
/// </summary>
/// <param name="adapters">The set that the layers will ask; it learns of every layer as it is built.</param>
/// <param name="inner">Makes the layers themselves.</param>
public sealed class LoraLinearFactory(AdapterSet adapters, ILinearFactory inner) : ILinearFactory
{
    // Norms and router biases are far below; stacked experts far above. A parameter that adapters may overwrite must
    // not lie over a read-only map.
    private const long LargestCopied = 1 << 20;

    /// <inheritdoc/>
    public LinearLayer CreateLinear(LinearSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(weights);
        return adapters.Register(inner.CreateLinear(spec, weights), weights);
    }

    /// <inheritdoc/>
    public EmbeddingLayer CreateEmbedding(EmbeddingSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(weights);
        return adapters.Register(inner.CreateEmbedding(spec, weights), weights);
    }

    /// <inheritdoc/>
    public ExpertStack CreateExperts(ExpertStackSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(weights);
        return adapters.Register(new DenseExpertStack(spec, CreateParameter(spec.Name, spec.Shape, weights)), weights);
    }

    /// <inheritdoc/>
    public Tensor CreateParameter(string name, IReadOnlyList<long> shape, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(weights);
        Tensor parameter = inner.CreateParameter(name, shape, weights);
        if (parameter.NumberOfElements <= LargestCopied)
        {
            using Tensor mapped = parameter;
            parameter = mapped.clone();
            adapters.Register(name, parameter, weights);
        }

        return parameter;
    }
}
