using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// Linear layers in bytes (GGUF's Q8_0), for decoding faster than bfloat16 without a loss that shows: rounded while
/// loading, tensor by tensor. The output head is included; embeddings, routers and rows that are no whole blocks come
/// from the inner factory. Dispose it after the model.
/// </summary>
/// <param name="inner">Makes everything that is not quantised.</param>
public sealed class Q8LinearFactory(ILinearFactory inner) : ILinearFactory, IDisposable
{
    private readonly DequantizationBuffer _buffer = new();

    /// <inheritdoc/>
    public LinearLayer CreateLinear(LinearSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(weights);
        string name = spec.TiedTo ?? spec.Name + ".weight";
        bool transposed = spec.IsConv1D && spec.TiedTo is null;
        long[] shape = transposed ? [spec.InFeatures, spec.OutFeatures] : [spec.OutFeatures, spec.InFeatures];
        if (spec.KeepPrecision || !ScaledBlockWeight.Supports(spec.InFeatures) || !weights.Source.Tensors.TryGetValue(name, out TensorInfo? info) || !info.Shape.SequenceEqual(shape))
        {
            return inner.CreateLinear(spec, weights);
        }

        weights.Ignore(name);
        ScaledBlockWeight weight;
        using (NewDisposeScope())
        {
            TensorData data = weights.Source.Read(name);
            Tensor matrix = TensorBytes.ToTensor(data, null, CPU);
            weight = ScaledBlockWeight.Quantize(transposed ? matrix.t() : matrix, name, GgufTensorType.Q8_0, weights.Device);
            TensorBytes.ReleasePages(data);
        }

        return new QuantizedLinear(spec, weight, spec.HasBias ? weights.Read(spec.Name + ".bias", [spec.OutFeatures]).DetachFromDisposeScope() : null, _buffer);
    }

    /// <inheritdoc/>
    public EmbeddingLayer CreateEmbedding(EmbeddingSpec spec, WeightReader weights) => inner.CreateEmbedding(spec, weights);

    /// <inheritdoc/>
    public Tensor CreateParameter(string name, IReadOnlyList<long> shape, WeightReader weights) => inner.CreateParameter(name, shape, weights);

    /// <summary>Frees the shared buffer.</summary>
    public void Dispose() => _buffer.Dispose();
}
