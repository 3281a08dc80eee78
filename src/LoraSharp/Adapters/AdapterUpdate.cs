using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// What one adapter makes of the rows of one layer: PEFT's arithmetic, in its order. Which rows use which adapter is
/// <see cref="LoraLinear"/>'s affair.
/// </summary>
/// <param name="inner">The layer without adapters; stays the caller's.</param>
/// <param name="adapters">Says whether it is training, and where dropout comes from.</param>
/// <param name="index">The layer's number, for its own random numbers.</param>
internal sealed class AdapterUpdate(LinearLayer inner, AdapterSet adapters, int index) : IDisposable
{
    private Tensor? _squaredNorms;

    /// <inheritdoc/>
    public void Dispose() => _squaredNorms?.Dispose();

    /// <summary>‖W + ΔW‖ of each row [f] in float32, without forming ΔW; DoRA's denominator. For the caller to dispose.</summary>
    public Tensor WeightNorms(AdapterModule module)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor weight = inner.DenseWeight().to(ScalarType.Float32);
        _squaredNorms ??= weight.mul(weight).sum(1).DetachFromDisposeScope();
        return DoraNorm.Of(_squaredNorms, weight, module).MoveToOuterDisposeScope();
    }

    /// <summary>y, what the layer made of the rows, with everything the adapter changes. y is a fresh tensor and may be written to.</summary>
    public Tensor Apply(LoraAdapter adapter, AdapterModule module, Tensor rows, Tensor y)
    {
        if (module.OtherWeight is { } weight)
        {
            // Under factors: the weight that was saved along with them (a resized or retrained embedding or head).
            y = Saved(module, weight, rows);
        }
        else if (module.Bias is { } bias && inner.Bias is { } old)
        {
            y = y + (bias - old).to(y.dtype);
        }

        if (module.A is not null)
        {
            y = module.Magnitude is null ? AddFactors(module, adapter, rows, y, 1) : Dora(module, adapter, rows, y);
        }

        if (module.TokenRows is { } tokens)
        {
            // The head tied to an embedding with trained rows: those tokens' logits anew.
            Tensor logits = nn.functional.linear(rows.to(tokens.dtype), tokens).to(y.dtype);
            y = y.index_copy(-1, module.TokenIds!, logits);
        }

        return y;
    }

    /// <summary>The same, what it changes times the weight.</summary>
    public Tensor Weighted(WeightedAdapter one, AdapterModule module, Tensor rows, Tensor y)
    {
        if (one.Weight == 1)
        {
            return Apply(one.Adapter, module, rows, y);
        }

        Tensor changed = Apply(one.Adapter, module, rows, y.clone());
        return y + ((changed - y) * one.Weight).to(y.dtype);
    }

    /// <summary>The product with a weight that was saved in full.</summary>
    public Tensor Saved(AdapterModule module, Tensor weight, Tensor rows) =>
        nn.functional.linear(rows, weight.to(rows.dtype), (module.Bias ?? inner.Bias)?.to(rows.dtype)!);

    /// <summary>Whether the adapter changes the layer by its factors alone.</summary>
    public static bool IsPlain(AdapterModule module) =>
        module is { A: not null, Magnitude: null, OtherWeight: null, Bias: null, TokenRows: null };

    /// <summary>y += weight · scaling · (x·Aᵀ)·Bᵀ.</summary>
    public Tensor AddFactors(AdapterModule module, LoraAdapter adapter, Tensor rows, Tensor y, double weight)
    {
        Tensor a = module.A!;
        Tensor b = module.B!;
        float scale = (float)(module.Scaling * weight);
        Tensor input = rows.dtype == a.dtype ? rows : rows.to(a.dtype);
        Tensor hidden = Hidden(module, adapter, Dropped(adapter, input));
        if (y.dtype == a.dtype && module.BBias is null)
        {
            y = AddProduct(y, hidden, b, scale);
            return module.AnchorA is null ? y : y.addmm_(input.mm(module.AnchorA.t()), module.AnchorB!.t(), 1, -scale);
        }

        Tensor delta = nn.functional.linear(hidden, b, module.BBias!);
        if (module.AnchorA is not null)
        {
            delta = delta - nn.functional.linear(input.mm(module.AnchorA.t()), module.AnchorB!);
        }

        return y.add_(delta, scale);
    }

    // y += scale · hidden · Bᵀ. With gradients the scale goes to the thin factor: as the product's own it would make
    // backward scale the whole gradient of y, twice.
    private static Tensor AddProduct(Tensor y, Tensor hidden, Tensor b, float scale)
    {
        if (!is_grad_enabled())
        {
            return y.addmm_(hidden, b.t(), 1, scale);
        }

        return y.addmm_(scale == 1 ? hidden : hidden * scale, b.t());
    }

    // DoRA: y = (m / ‖W + ΔW‖)·(W + ΔW)·x + b, the norm detached from the gradient (Liu et al. 2024, sections 4.1 and 4.3).
    private Tensor Dora(AdapterModule module, LoraAdapter adapter, Tensor rows, Tensor y)
    {
        Tensor scale = DoraScale(module);
        Tensor input = rows.dtype == module.A!.dtype ? rows : rows.to(module.A.dtype);
        Tensor dropped = Dropped(adapter, input);
        Tensor? bias = module.Bias ?? inner.Bias;
        bool hasDropout = !ReferenceEquals(dropped, input);

        // Where an initialisation took something out of W, the base is what it left. With dropout the direction sees the
        // thinned input, as in PEFT; the base's own part does not.
        y = Residual(module, input, y);
        Tensor product = hasDropout ? Residual(module, dropped, inner.Forward(dropped.to(rows.dtype))) : y;
        Tensor direction = (bias is null ? product : product - bias).to(module.A.dtype);
        Tensor kept = direction;
        direction = AddProduct(hasDropout ? direction.clone() : direction, Hidden(module, adapter, dropped), module.B!, (float)module.Scaling);
        Tensor result = hasDropout
            ? y + (direction * scale) - kept
            : bias is null ? direction * scale : (direction * scale).add_(bias);
        return result.to(y.dtype);
    }

    // y − s·(x·A0ᵀ)·B0ᵀ; y is a fresh tensor.
    private static Tensor Residual(AdapterModule module, Tensor input, Tensor y)
    {
        if (module.AnchorA is null)
        {
            return y;
        }

        Tensor taken = nn.functional.linear(input.mm(module.AnchorA.t()), module.AnchorB!);
        return y.add_(taken, (float)-module.Scaling);
    }

    /// <summary>m / ‖W + ΔW‖ [f].</summary>
    public Tensor DoraScale(AdapterModule module)
    {
        if (module.FrozenDoraScale is { } known)
        {
            return known;
        }

        Tensor scale = module.Magnitude! / WeightNorms(module);
        if (!module.Magnitude!.requires_grad && !module.A!.requires_grad)
        {
            module.FrozenDoraScale = scale.detach().DetachFromDisposeScope();
            return module.FrozenDoraScale;
        }

        return scale;
    }

    private Tensor Hidden(AdapterModule module, LoraAdapter adapter, Tensor input)
    {
        Tensor hidden = input.mm(module.A!.t());
        if (!adapters.Training || adapter.RankDropout == 0)
        {
            return hidden;
        }

        // One mask for the whole micro-batch: ranks live or die together.
        double keep = 1 - adapter.RankDropout;
        using Tensor mask = adapters.Dropout.Mask(empty([module.Rank], hidden.dtype, hidden.device), keep, index + (1L << 32));
        return hidden * (mask / keep);
    }

    private Tensor Dropped(LoraAdapter adapter, Tensor input)
    {
        double probability = adapter.Config.Dropout;
        if (!adapters.Training || probability == 0)
        {
            return input;
        }

        double keep = 1 - probability;
        Tensor mask = adapters.Dropout.Mask(empty_like(input), keep, index).div_(keep);
        return input * mask;
    }
}
