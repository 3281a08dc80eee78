using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// y = x·Wᵀ + b with W frozen in few bits (QLoRA, section 3): dequantised to x's type for the product and forgotten.
/// Backward dequantises again and gives dX only, so that nothing of W's size is kept between the two. A few rows on a
/// CPU are multiplied straight from the codes.
/// </summary>
public sealed class QuantizedLinear : LinearLayer
{
    private readonly IQuantizedMatrix _weight;
    private readonly Tensor? _bias;
    private readonly DequantizationBuffer _buffer;

    /// <summary>Takes ownership of the weight and the bias, not of the buffer.</summary>
    /// <param name="spec">Name and sizes.</param>
    /// <param name="weight">W [f, k].</param>
    /// <param name="bias">[f] in the compute type, or null.</param>
    /// <param name="buffer">Shared by the model's layers.</param>
    public QuantizedLinear(LinearSpec spec, IQuantizedMatrix weight, Tensor? bias, DequantizationBuffer buffer)
        : base(spec)
    {
        _weight = weight;
        _bias = bias;
        _buffer = buffer;
    }

    /// <summary>W; owned by the layer.</summary>
    public IQuantizedMatrix Weight => _weight;

    /// <inheritdoc/>
    public override Tensor? Bias => _bias;

    /// <summary>Codes and scales under bitsandbytes' names, and the bias.</summary>
    public override IEnumerable<NamedTensor> Parameters
    {
        get
        {
            foreach (NamedTensor tensor in _weight.Named(Spec.Name))
            {
                yield return tensor;
            }

            if (_bias is not null)
            {
                yield return new(Spec.Name + ".bias", _bias);
            }
        }
    }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor x)
    {
        ArgumentNullException.ThrowIfNull(x);
        if (!is_grad_enabled() || !(x.requires_grad || _bias is { requires_grad: true }))
        {
            return Product(x, _bias);
        }

        using var scope = NewDisposeScope();
        Tensor product;
        using (no_grad())
        {
            product = Product(x, null);
        }

        Tensor y = GradientNode.Attach([x], product, InputGradient, _buffer.Nodes);
        return (_bias is null ? y : y + _bias).MoveToOuterDisposeScope();
    }

    /// <summary>The dequantised weight [f, k], in the type it had before quantisation.</summary>
    public override Tensor DenseWeight() => _weight.Dequantize(_weight.DType);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _weight.Dispose();
        _bias?.Dispose();
    }

    private IReadOnlyList<Tensor?> InputGradient(Tensor gradient) => [_buffer.Use(_weight, gradient.dtype, gradient.matmul)];

    private Tensor Product(Tensor x, Tensor? bias)
    {
        long rows = x.NumberOfElements / Spec.InFeatures;
        if (!_weight.CanMultiply(rows, x.dtype))
        {
            return _buffer.Use(_weight, x.dtype, w => nn.functional.linear(x, w, bias!));
        }

        long[] shape = x.shape;
        shape[^1] = Spec.OutFeatures;
        using Tensor? dense = x.is_contiguous() ? null : x.detach().contiguous();
        Tensor y = _weight.Multiply(dense ?? x, shape);
        return bias is null ? y : y.add_(bias);
    }
}
