using LoraSharp.Kernels.Cpu;
using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>Kinds of normalisation over the last dimension.</summary>
public enum NormKind
{
    /// <summary>x / rms(x) · w (Zhang &amp; Sennrich 2019), the product with w in the input's type (Llama).</summary>
    Rms,

    /// <summary>As <see cref="Rms"/> with the product with w in float32, before rounding (OLMo 2, gpt-oss, Helium).</summary>
    RmsFloat32,

    /// <summary>x / rms(x) · (1 + w) in float32 (Gemma).</summary>
    RmsUnitOffset,

    /// <summary>Layer norm with weight and bias.</summary>
    Layer,

    /// <summary>Layer norm with weight 1 + w and bias (Nemotron).</summary>
    LayerUnitOffset,

    /// <summary>Layer norm with a weight and no bias (Cohere).</summary>
    LayerNoBias,

    /// <summary>Layer norm without weights (OLMo).</summary>
    LayerPlain,
}

/// <summary>Kind and epsilon of a norm.</summary>
/// <param name="Kind">What is divided by what.</param>
/// <param name="Epsilon">Added to the mean square or the variance.</param>
public sealed record NormSpec(NormKind Kind, double Epsilon);

/// <summary>A normalisation over the last dimension; statistics in float32 whatever the input's type.</summary>
public sealed class NormLayer : IDisposable
{
    private readonly NormSpec _spec;
    private readonly string _name;
    private readonly long _size;
    private readonly Tensor? _weight;
    private readonly Tensor? _bias;

    /// <summary>Reads the norm's weights.</summary>
    /// <param name="spec">Kind and epsilon.</param>
    /// <param name="name">Path without <c>.weight</c>.</param>
    /// <param name="size">Length of the last dimension.</param>
    /// <param name="factory">Makes the parameters.</param>
    /// <param name="weights">Gives their values.</param>
    public NormLayer(NormSpec spec, string name, long size, ILinearFactory factory, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(factory);
        _spec = spec;
        _name = name;
        _size = size;
        _weight = spec.Kind == NormKind.LayerPlain ? null : factory.CreateParameter(name + ".weight", [size], weights);
        _bias = spec.Kind is NormKind.Layer or NormKind.LayerUnitOffset ? factory.CreateParameter(name + ".bias", [size], weights) : null;
    }

    /// <summary>Weight and bias, where there are.</summary>
    public IEnumerable<NamedTensor> Parameters
    {
        get
        {
            if (_weight is not null)
            {
                yield return new(_name + ".weight", _weight);
            }

            if (_bias is not null)
            {
                yield return new(_name + ".bias", _bias);
            }
        }
    }

    /// <summary>x [..., d] → [..., d].</summary>
    public Tensor Forward(Tensor x)
    {
        ArgumentNullException.ThrowIfNull(x);
        return _spec.Kind is NormKind.Rms or NormKind.RmsFloat32 or NormKind.RmsUnitOffset ? Rms(x) : Layer(x);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _weight?.Dispose();
        _bias?.Dispose();
    }

    private Tensor Rms(Tensor x)
    {
        if (CpuKernels.Take(x) && _weight!.dtype == x.dtype && x.is_contiguous())
        {
            return RmsNormKernel.Forward(x, _weight, _spec.Epsilon, _spec.Kind == NormKind.RmsUnitOffset ? 1 : 0, _spec.Kind == NormKind.Rms);
        }

        using var scope = NewDisposeScope();
        Tensor wide = x.to(ScalarType.Float32);
        Tensor scaled = wide * (wide.square().mean([-1], keepdim: true) + _spec.Epsilon).rsqrt();
        Tensor result = _spec.Kind switch
        {
            NormKind.Rms => scaled.to(x.dtype) * _weight!,
            NormKind.RmsFloat32 => (scaled * _weight!.to(ScalarType.Float32)).to(x.dtype),
            _ => (scaled * (_weight!.to(ScalarType.Float32) + 1.0)).to(x.dtype),
        };
        return result.MoveToOuterDisposeScope();
    }

    private Tensor Layer(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor? weight = _spec.Kind == NormKind.LayerUnitOffset ? _weight! + 1.0 : _weight;
        return nn.functional.layer_norm(x, [_size], weight, _bias, _spec.Epsilon).MoveToOuterDisposeScope();
    }
}
