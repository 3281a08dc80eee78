using LoraSharp.Kernels.Cpu;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>The innermost factory: weights as the checkpoint has them, in the type of the <see cref="WeightReader"/>.</summary>
/// <param name="trainable">True for full fine-tuning: every floating-point tensor gets a gradient.</param>
public sealed class DenseLinearFactory(bool trainable = false) : ILinearFactory
{
    /// <inheritdoc/>
    public LinearLayer CreateLinear(LinearSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(weights);
        Tensor weight;
        if (spec.TiedTo is { } tied)
        {
            weight = weights.Shared(tied, [spec.OutFeatures, spec.InFeatures], trainable);
        }
        else if (spec.IsConv1D)
        {
            using Tensor stored = weights.Read(spec.Name + ".weight", [spec.InFeatures, spec.OutFeatures]);
            weight = stored.t().contiguous();
        }
        else
        {
            weight = weights.Shared(spec.Name + ".weight", [spec.OutFeatures, spec.InFeatures], trainable);
        }

        Tensor? bias = spec.HasBias ? weights.Read(spec.Name + ".bias", [spec.OutFeatures], trainable) : null;
        return new DenseLinear(spec, Trainable(weight), bias is null ? null : Trainable(bias));
    }

    /// <inheritdoc/>
    public EmbeddingLayer CreateEmbedding(EmbeddingSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(weights);
        return new DenseEmbedding(spec, Trainable(weights.Shared(spec.Name + ".weight", [spec.Count, spec.Size], trainable)));
    }

    /// <inheritdoc/>
    public Tensor CreateParameter(string name, IReadOnlyList<long> shape, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(weights);
        return Trainable(weights.Read(name, shape, trainable));
    }

    private Tensor Trainable(Tensor tensor) => trainable ? tensor.requires_grad_() : tensor;
}

/// <summary>y = x·Wᵀ + b with a dense W [f, k].</summary>
public sealed class DenseLinear : LinearLayer
{
    private readonly Tensor? _bias;
    private Tensor _weight;
    private readonly bool _isFewRowsKernel;

    /// <summary>Takes ownership of both tensors.</summary>
    public DenseLinear(LinearSpec spec, Tensor weight, Tensor? bias)
        : base(spec)
    {
        ArgumentNullException.ThrowIfNull(weight);
        _weight = weight;
        _bias = bias;
        _isFewRowsKernel = weight.device_type == DeviceType.CPU && weight.dtype is ScalarType.Float32 or ScalarType.BFloat16 && weight.is_contiguous();
    }

    /// <summary>W [f, k]; owned by the layer.</summary>
    public Tensor Weight => _weight;

    /// <inheritdoc/>
    public override Tensor? Bias => _bias;

    /// <inheritdoc/>
    public override IEnumerable<NamedTensor> Parameters
    {
        get
        {
            yield return new(Spec.Name + ".weight", _weight);
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
        return FewRows(x, []) ?? nn.functional.linear(x, _weight, _bias!);
    }

    /// <summary>The product and what low-rank factors add to its rows, when the kernel for few rows takes them; null when it does not.</summary>
    /// <param name="x">[..., k].</param>
    /// <param name="factors">By rows of x.</param>
    internal Tensor? FewRows(Tensor x, ReadOnlySpan<LowRankKernel.Segment> factors)
    {
        if (!_isFewRowsKernel || !CpuKernels.Take(x) || x.dtype != _weight.dtype || !x.is_contiguous())
        {
            return null;
        }

        long k = Spec.InFeatures, rows = x.NumberOfElements / k;
        if (rows > FewRowsProduct.MostRows(_weight.dtype))
        {
            return null;
        }

        long[] shape = x.shape;
        shape[^1] = Spec.OutFeatures;
        return FewRowsProduct.Multiply(x, _weight, _bias, rows, k, Spec.OutFeatures, shape, factors);
    }

    /// <inheritdoc/>
    public override Tensor DenseWeight() => _weight.alias();

    /// <summary>
    /// Takes a tensor of the same shape and values over and frees its own: for one who keeps the weight in a layout of
    /// his own and wants no second copy.
    /// </summary>
    /// <param name="weight">W [f, k], any strides; owned by the layer from now on.</param>
    public void Replace(Tensor weight)
    {
        ArgumentNullException.ThrowIfNull(weight);
        CheckReplacement(_weight, weight);
        _weight.Dispose();
        _weight = weight.DetachFromDisposeScope();
    }

    internal static void CheckReplacement(Tensor own, Tensor weight)
    {
        if (!weight.shape.SequenceEqual(own.shape) || weight.dtype != own.dtype)
        {
            throw new ArgumentException($"Expected [{string.Join(", ", own.shape)}] {own.dtype}, found [{string.Join(", ", weight.shape)}] {weight.dtype}.", nameof(weight));
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _weight.Dispose();
        _bias?.Dispose();
    }
}

/// <summary>Rows of a dense table [v, d].</summary>
public sealed class DenseEmbedding : EmbeddingLayer
{
    private Tensor _weight;

    /// <summary>Takes ownership of the table.</summary>
    public DenseEmbedding(EmbeddingSpec spec, Tensor weight)
        : base(spec) => _weight = weight;

    /// <inheritdoc/>
    public override Tensor Weight => _weight;

    /// <inheritdoc/>
    public override IEnumerable<NamedTensor> Parameters => [new(Spec.Name + ".weight", _weight)];

    /// <summary>Takes a table of the same shape and values over and frees its own: for one who keeps it in memory of his own.</summary>
    /// <param name="weight">[v, d]; owned by the layer from now on.</param>
    public void Replace(Tensor weight)
    {
        ArgumentNullException.ThrowIfNull(weight);
        DenseLinear.CheckReplacement(_weight, weight);
        _weight.Dispose();
        _weight = weight.DetachFromDisposeScope();
    }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        using var scope = NewDisposeScope();
        return _weight.index_select(0, ids.reshape(-1)).view([.. ids.shape, Spec.Size]).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => _weight.Dispose();
}
