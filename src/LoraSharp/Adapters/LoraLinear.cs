using LoraSharp.Kernels.Cpu;
using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// y = x·Wᵀ + b + scaling·(x·Aᵀ)·Bᵀ over any linear layer, with as many adapters as its <see cref="AdapterSet"/> holds.
/// Numerics are PEFT's: factors in float32, x converted to their type, the sum rounded back to the base's type.
/// Without a selected adapter for it the layer costs one look-up.
/// </summary>
public sealed class LoraLinear : LinearLayer
{
    private const long MostKernelRows = 8;

    private readonly LinearLayer _inner;
    private readonly AdapterSet _adapters;
    private readonly AdapterUpdate _update;
    private readonly GroupedFactors _grouped;
    private (LoraAdapter Adapter, DenseLinear Layer)? _folded;
    private Routes? _routes;

    internal LoraLinear(LinearLayer inner, AdapterSet adapters, int index)
        : base(inner.Spec)
    {
        _inner = inner;
        _adapters = adapters;
        _update = new AdapterUpdate(inner, adapters, index);
        _grouped = new GroupedFactors(adapters, inner.Spec.Name, index);
    }

    /// <summary>The layer without adapters.</summary>
    public LinearLayer Inner => _inner;

    /// <inheritdoc/>
    public override Tensor? Bias => _inner.Bias;

    /// <inheritdoc/>
    public override IEnumerable<NamedTensor> Parameters => _inner.Parameters.Concat(_adapters.TensorsOf(Spec.Name));

    /// <inheritdoc/>
    public override Tensor DenseWeight() => _inner.DenseWeight();

    /// <inheritdoc/>
    public override Tensor Forward(Tensor x)
    {
        ArgumentNullException.ThrowIfNull(x);
        _adapters.Watcher?.Invoke(Spec.Name, x);
        AdapterSelection selection = _adapters.Selection;
        if (!Concerns(selection))
        {
            return _inner.Forward(x);
        }

        if (_folded is { } folded && selection is { Segments: null, All: [{ Weight: 1 } only] } && only.Adapter == folded.Adapter && !is_grad_enabled())
        {
            return folded.Layer.Forward(x);
        }

        if (CpuKernels.Take(x) && x.is_contiguous())
        {
            return ByKernel(selection, x);
        }

        using var scope = NewDisposeScope();
        return Composed(selection, x).MoveToOuterDisposeScope();
    }

    // By libtorch's operators: with gradients, on a GPU, and the reference of the kernel.
    private Tensor Composed(AdapterSelection selection, Tensor x)
    {
        long[] shape = x.shape;
        Tensor rows = shape.Length == 2 ? x : x.reshape(-1, Spec.InFeatures);
        Tensor y = selection.Segments is { } segments ? Routed(segments, rows) : Mixed(selection.All, rows);
        if (shape.Length != 2)
        {
            shape[^1] = Spec.OutFeatures;
            y = y.view(shape);
        }

        return y;
    }

    // Longer pieces go through the operators that PEFT's own numbers come from: a model can make a thousand times more of a
    // sum's last bit, which is the difference between two orders of adding.
    private static LowRankKernel.Factors? FactorsFor(AdapterModule module, long rows) => rows <= MostKernelRows ? module.KernelFactors : null;

    // One call for all short pieces with plain factors, whoever's they are; the others one by one.
    private Tensor ByKernel(AdapterSelection selection, Tensor x)
    {
        long rows = x.NumberOfElements / Spec.InFeatures;
        Routes routes = RoutesOf(selection, rows);
        using var scope = NewDisposeScope();
        if (routes.Plain.Length == 0)
        {
            return Composed(selection, x).MoveToOuterDisposeScope();
        }

        RequireAll(routes.Rows, rows);
        Tensor? y = (_inner as DenseLinear)?.FewRows(x, routes.Plain);
        if (y is null)
        {
            y = _inner.Forward(x);
            if (y.dtype != x.dtype || !y.is_contiguous())
            {
                return Composed(selection, x).MoveToOuterDisposeScope();
            }

            LowRankKernel.Add(x, y, Spec.InFeatures, Spec.OutFeatures, routes.Plain);
        }

        if (routes.HasOthers)
        {
            AddOthers(selection.Segments!, x.view(-1, Spec.InFeatures), y.view(-1, Spec.OutFeatures));
        }

        return y.MoveToOuterDisposeScope();
    }

    // Which factors serve which rows: worked out once for a selection, which lasts as long as the batch stays the same.
    private Routes RoutesOf(AdapterSelection selection, long rows)
    {
        if (_routes is { } known && ReferenceEquals(known.Selection, selection) && (selection.Segments is not null || known.Rows == rows))
        {
            return known;
        }

        IReadOnlyList<RowSegment> segments = selection.Segments ?? (selection.All is [{ Weight: 1 } only] ? [new RowSegment(rows, only.Adapter)] : []);
        var plain = new List<LowRankKernel.Segment>(segments.Count);
        bool others = false;
        long start = 0;
        foreach ((long length, LoraAdapter? adapter) in segments)
        {
            if (adapter is not null && adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module))
            {
                if (FactorsFor(module, length) is { } factors)
                {
                    plain.Add(new(start, length, factors));
                }
                else
                {
                    others = true;
                }
            }

            start += length;
        }

        return _routes = new(selection, start, [.. plain], others);
    }

    private sealed record Routes(AdapterSelection Selection, long Rows, LowRankKernel.Segment[] Plain, bool HasOthers);

    private void AddOthers(IReadOnlyList<RowSegment> segments, Tensor rows, Tensor y)
    {
        long start = 0;
        foreach ((long count, LoraAdapter? adapter) in segments)
        {
            if (adapter is not null && adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module) && FactorsFor(module, count) is null)
            {
                Tensor piece = y.narrow(0, start, count);
                piece.copy_(_update.Apply(adapter, module, rows.narrow(0, start, count), piece.clone()));
            }

            start += count;
        }
    }

    private void RequireAll(long covered, long rows)
    {
        if (covered != rows)
        {
            throw new InvalidOperationException($"{Spec.Name}: the routing covers {covered} rows, the batch has {rows}.");
        }
    }

    /// <summary>
    /// The adapted output from an input and what the layer made of it, for layers that something else computes.
    /// </summary>
    /// <param name="x">[..., k].</param>
    /// <param name="baseOutput">W·x + b [..., f]; left as it is.</param>
    /// <returns>[..., f].</returns>
    internal Tensor Adapt(Tensor x, Tensor baseOutput)
    {
        using var scope = NewDisposeScope();
        Tensor rows = x.reshape(-1, Spec.InFeatures);
        Tensor y = baseOutput.reshape(-1, Spec.OutFeatures);
        foreach (WeightedAdapter chosen in _adapters.Selection.All)
        {
            if (chosen.Adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module))
            {
                y = _update.Weighted(chosen, module, rows, y.clone());
            }
        }

        return y.view(baseOutput.shape).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Keeps W with the adapter folded in beside W, for passes in which all rows use this adapter: one product instead of
    /// three. W itself is not touched, so there is nothing to undo.
    /// </summary>
    internal void Fold(LoraAdapter adapter)
    {
        Unfold();
        if (!adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module))
        {
            return;
        }

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        using Tensor dense = _inner.DenseWeight();
        ScalarType dtype = dense.dtype;
        Tensor weight = (module.OtherWeight ?? dense).to(ScalarType.Float32, copy: true);
        if (module.Delta() is { } delta)
        {
            weight.add_(delta);
        }

        if (module.Magnitude is not null)
        {
            weight.mul_(_update.DoraScale(module).unsqueeze(1));
        }

        if (module.TokenRows is { } tokens)
        {
            weight.index_copy_(0, module.TokenIds!, tokens.to(ScalarType.Float32));
        }

        Tensor? bias = (module.Bias ?? Bias)?.to(ScalarType.Float32, copy: true);
        if (module.BBias is { } own)
        {
            Tensor scaled = own * module.Scaling;
            bias = bias is null ? scaled : bias.add_(scaled);
        }

        LinearSpec spec = Spec with { HasBias = bias is not null, IsConv1D = false, TiedTo = null };
        _folded = (adapter, new DenseLinear(spec, weight.to(dtype).DetachFromDisposeScope(), bias?.to(dtype).DetachFromDisposeScope()));
    }

    /// <summary>Frees what <see cref="Fold"/> made.</summary>
    internal void Unfold()
    {
        _folded?.Layer.Dispose();
        _folded = null;
    }

    /// <summary>‖W + ΔW‖ of each row [f] in float32; DoRA's denominator. For the caller to dispose.</summary>
    internal Tensor WeightNorms(AdapterModule module) => _update.WeightNorms(module);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        Unfold();
        _update.Dispose();
        _inner.Dispose();
    }

    private bool Concerns(AdapterSelection selection)
    {
        if (selection.IsEmpty)
        {
            return false;
        }

        foreach (LoraAdapter adapter in selection.Adapters)
        {
            if (adapter.Modules.ContainsKey(Spec.Name))
            {
                return true;
            }
        }

        return false;
    }

    // The base product once, then each adapter on its own rows.
    private Tensor Routed(IReadOnlyList<RowSegment> segments, Tensor rows)
    {
        RequireAll(segments.Sum(s => s.Rows), rows.shape[0]);
        bool inPlace = !is_grad_enabled();
        if (!inPlace && GroupedFactors.Fits(segments))
        {
            Tensor output = _inner.Forward(rows.view(segments.Count, -1, Spec.InFeatures));
            return _grouped.Add(segments, rows, output, (segment, x, piece) => _update.Weighted(new(segment.Adapter!), segment.Adapter!.Modules[Spec.Name], x, piece));
        }

        Tensor y = _inner.Forward(rows);
        var pieces = new List<Tensor>();
        long start = 0;
        foreach ((long count, LoraAdapter? adapter) in segments)
        {
            Tensor piece = y.narrow(0, start, count);
            if (adapter is not null && adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module))
            {
                Tensor input = rows.narrow(0, start, count);
                if (inPlace && AdapterUpdate.IsPlain(module))
                {
                    _update.AddFactors(module, adapter, input, piece, 1);
                }
                else
                {
                    piece = _update.Weighted(new(adapter), module, input, piece.clone());
                    if (inPlace)
                    {
                        y.narrow(0, start, count).copy_(piece);
                    }
                }
            }

            pieces.Add(piece);
            start += count;
        }

        return inPlace ? y : cat(pieces, 0);
    }

    private Tensor Mixed(IReadOnlyList<WeightedAdapter> chosen, Tensor rows)
    {
        // A module saved in full takes the place of the base product.
        if (chosen.Count == 1 && chosen[0].Weight == 1)
        {
            LoraAdapter adapter = chosen[0].Adapter;
            AdapterModule module = adapter.Modules[Spec.Name];
            return module.OtherWeight is { } weight && module.A is null
                ? _update.Saved(module, weight, rows)
                : _update.Apply(adapter, module, rows, _inner.Forward(rows));
        }

        Tensor y = _inner.Forward(rows);
        Tensor result = y;
        bool first = true;
        foreach (WeightedAdapter one in chosen)
        {
            if (!one.Adapter.Modules.TryGetValue(Spec.Name, out AdapterModule? module))
            {
                continue;
            }

            if (AdapterUpdate.IsPlain(module))
            {
                result = first ? y.clone() : result;
                result = _update.AddFactors(module, one.Adapter, rows, result, one.Weight);
            }
            else
            {
                // What it changes, weighted.
                Tensor changed = _update.Apply(one.Adapter, module, rows, y.clone());
                result = result + ((changed - y) * one.Weight).to(result.dtype);
            }

            first = false;
        }

        return result;
    }
}
