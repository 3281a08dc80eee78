using LoraSharp.Formats;
using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// y = x·W[e]ᵀ + scaling·(x·A[e]ᵀ)·B[e]ᵀ over experts that are stored in one tensor: PEFT's <c>target_parameters</c>,
/// without ever forming the stack of updates that it adds to the weight.
/// </summary>
public sealed class LoraExpertStack : ExpertStack
{
    private readonly ExpertStack _inner;
    private readonly AdapterSet _adapters;

    internal LoraExpertStack(ExpertStack inner, AdapterSet adapters)
        : base(inner.Spec)
    {
        _inner = inner;
        _adapters = adapters;
    }

    /// <inheritdoc/>
    public override Tensor Weight => _inner.Weight;

    /// <inheritdoc/>
    public override Tensor Forward(int expert, Tensor x)
    {
        ArgumentNullException.ThrowIfNull(x);
        AdapterSelection selection = _adapters.Selection;
        if (selection.IsEmpty || !selection.Adapters.Any(a => a.Modules.ContainsKey(Spec.Name)))
        {
            return _inner.Forward(expert, x);
        }

        if (selection.Segments is not null)
        {
            throw new LoraSharpException($"{Spec.Name}: tokens reach experts out of their order, so adapters of experts can't be mixed by row. Run their rows by themselves.");
        }

        using var scope = NewDisposeScope();
        Tensor y = _inner.Forward(expert, x);
        foreach ((LoraAdapter adapter, double weight) in selection.All)
        {
            if (adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module))
            {
                (Tensor a, Tensor b) = module.OfExpert(expert);
                Tensor update = nn.functional.linear(nn.functional.linear(x.to(a.dtype), a), b) * (module.Scaling * weight);
                y = y + update.to(y.dtype);
            }
        }

        return y.MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => _inner.Dispose();
}
