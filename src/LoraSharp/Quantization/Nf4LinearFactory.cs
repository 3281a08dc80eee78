using LoraSharp.Formats;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// Linear layers in 4 bits: taken as they are from a bitsandbytes checkpoint, or quantised while loading, one tensor at
/// a time. Embeddings, the output head, routers and <see cref="QuantizationOptions.SkipModules"/> come from the inner
/// factory. Dispose it after the model: its layers share one buffer.
/// </summary>
public sealed class Nf4LinearFactory : ILinearFactory, IDisposable
{
    private readonly QuantizationOptions? _options;
    private readonly ILinearFactory _inner;
    private readonly DequantizationBuffer _buffer = new();

    /// <summary>Creates the factory.</summary>
    /// <param name="options">How to quantise layers that are not yet; null leaves those to <paramref name="inner"/>.</param>
    /// <param name="inner">Makes everything that is not quantised.</param>
    public Nf4LinearFactory(QuantizationOptions? options, ILinearFactory inner)
    {
        options?.Validate();
        _options = options;
        _inner = inner;
    }

    /// <summary>Bytes of codes and scales made so far.</summary>
    public long QuantizedBytes { get; private set; }

    /// <summary>Weights they stand for.</summary>
    public long QuantizedWeights { get; private set; }

    /// <inheritdoc/>
    public LinearLayer CreateLinear(LinearSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(weights);
        FourBitWeight? weight = null;
        if (FindStored(weights.Source, spec.Name + ".weight") is { } tensors)
        {
            weight = Take(spec, tensors, weights);
        }
        else if (_options is { } options && !spec.IsOutputHead && !spec.KeepPrecision && spec.TiedTo is null && !options.Skips(spec.Name))
        {
            weight = Quantize(spec, options, weights);
        }

        if (weight is null)
        {
            return _inner.CreateLinear(spec, weights);
        }

        QuantizedBytes += weight.Bytes;
        QuantizedWeights += weight.Rows * weight.Columns;
        return new QuantizedLinear(spec, weight, spec.HasBias ? weights.Read(spec.Name + ".bias", [spec.OutFeatures]).DetachFromDisposeScope() : null, _buffer);
    }

    /// <inheritdoc/>
    public EmbeddingLayer CreateEmbedding(EmbeddingSpec spec, WeightReader weights) => _inner.CreateEmbedding(spec, weights);

    /// <inheritdoc/>
    public Tensor CreateParameter(string name, IReadOnlyList<long> shape, WeightReader weights) => _inner.CreateParameter(name, shape, weights);

    /// <summary>Frees the shared buffer.</summary>
    public void Dispose() => _buffer.Dispose();

    private static FourBitTensors? FindStored(ITensorSource? source, string name)
    {
        while (source is { } view && view is not BitsAndBytesSource)
        {
            (source, name) = (view.Underlying, view.UnderlyingName(name));
        }

        return (source as BitsAndBytesSource)?.FindFourBit(name);
    }

    /// <summary>Null, after noting the fault, when the tensor is missing or misshapen: the inner factory's zeros go on in its place.</summary>
    private static FourBitWeight? Quantize(LinearSpec spec, QuantizationOptions options, WeightReader weights)
    {
        string name = spec.Name + ".weight";
        long[] shape = spec.IsConv1D ? [spec.InFeatures, spec.OutFeatures] : [spec.OutFeatures, spec.InFeatures];
        if (!weights.Source.Tensors.TryGetValue(name, out TensorInfo? info) || !info.Shape.SequenceEqual(shape)
            || info.Type is not (ElementType.F32 or ElementType.BF16 or ElementType.F16))
        {
            return null;
        }

        // In the checkpoint's own type, from the map where it is one: the compute type plays no part.
        weights.Ignore(name);
        using var scope = NewDisposeScope();
        TensorData data = weights.Source.Read(name);
        Tensor matrix = TensorBytes.ToTensor(data, null, CPU);
        FourBitWeight weight = FourBitWeight.Quantize(spec.IsConv1D ? matrix.t() : matrix, name, options, weights.Device);
        TensorBytes.ReleasePages(data);
        return weight;
    }

    private static FourBitWeight? Take(LinearSpec spec, FourBitTensors tensors, WeightReader weights)
    {
        weights.Ignore(spec.Name + ".weight");
        if (tensors.Rows != spec.OutFeatures || tensors.Columns != spec.InFeatures)
        {
            weights.Fault($"shape: {spec.Name}.weight expected [{spec.OutFeatures}, {spec.InFeatures}], its quant_state says [{tensors.Rows}, {tensors.Columns}]");
            return null;
        }

        return tensors.Load(weights.Device);
    }
}
