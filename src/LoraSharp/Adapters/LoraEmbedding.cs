using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// Rows of an embedding table with a low-rank update: row(t) = W[t] + scaling·A[:, t]ᵀ·Bᵀ, A [r, v], B [d, r]; or with
/// the table or some of its rows replaced.
/// </summary>
public sealed class LoraEmbedding : EmbeddingLayer
{
    private readonly EmbeddingLayer _inner;
    private readonly AdapterSet _adapters;
    private Tensor? _squaredNorms;

    internal LoraEmbedding(EmbeddingLayer inner, AdapterSet adapters)
        : base(inner.Spec)
    {
        _inner = inner;
        _adapters = adapters;
    }

    /// <summary>The layer without adapters.</summary>
    public EmbeddingLayer Inner => _inner;

    /// <inheritdoc/>
    public override Tensor Weight => _inner.Weight;

    /// <inheritdoc/>
    public override IEnumerable<NamedTensor> Parameters => _inner.Parameters.Concat(_adapters.TensorsOf(Spec.Name));

    /// <inheritdoc/>
    public override Tensor Forward(Tensor ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        AdapterSelection selection = _adapters.Selection;
        if (selection.IsEmpty || !selection.Adapters.Any(a => a.Modules.ContainsKey(Spec.Name)))
        {
            return _inner.Forward(ids);
        }

        using var scope = NewDisposeScope();
        Tensor flat = ids.reshape(-1);
        Tensor y = _inner.Forward(flat);
        if (selection.Segments is { } segments)
        {
            var pieces = new List<Tensor>();
            long start = 0;
            foreach ((long count, LoraAdapter? adapter) in segments)
            {
                Tensor piece = y.narrow(0, start, count);
                pieces.Add(adapter is not null && adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module)
                    ? Adapted(module, flat.narrow(0, start, count), piece)
                    : piece);
                start += count;
            }

            y = cat(pieces, 0);
        }
        else
        {
            Tensor result = y;
            foreach ((LoraAdapter adapter, double weight) in selection.All)
            {
                if (adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module))
                {
                    Tensor changed = Adapted(module, flat, y);
                    result = weight == 1 && ReferenceEquals(result, y) ? changed : result + ((changed - y) * weight).to(y.dtype);
                }
            }

            y = result;
        }

        return y.view([.. ids.shape, Spec.Size]).MoveToOuterDisposeScope();
    }

    /// <summary>‖W + ΔW‖ of each column of the table [d], float32; for the caller to dispose.</summary>
    internal Tensor WeightNorms(AdapterModule module)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor weight = _inner.Weight.to(ScalarType.Float32).t();
        _squaredNorms ??= weight.mul(weight).sum(1).DetachFromDisposeScope();
        return DoraNorm.Of(_squaredNorms, weight, module).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _squaredNorms?.Dispose();
        _inner.Dispose();
    }

    private Tensor Adapted(AdapterModule module, Tensor ids, Tensor y)
    {
        if (module.OtherWeight is { } table)
        {
            y = table.index_select(0, ids).to(y.dtype);
        }

        if (module.TokenRows is { } tokens)
        {
            Tensor places = module.TokenPlaces!.index_select(0, ids);
            Tensor rows = tokens.index_select(0, places.clamp_min(0)).to(y.dtype);
            y = where((places >= 0).unsqueeze(-1), rows, y);
        }

        if (module.A is { } a)
        {
            Tensor update = a.index_select(1, ids).t().mm(module.B!.t()) * module.Scaling;
            y = module.Magnitude is { } magnitude
                ? ((magnitude / WeightNorms(module)) * (y + update)).to(y.dtype)
                : (y + update).to(y.dtype);
        }

        return y;
    }
}
