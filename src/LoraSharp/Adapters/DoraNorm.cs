using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// Row norms of W + s·B·A without forming it: ‖w + s·bA‖² = ‖w‖² + 2s·(W·Aᵀ)·b + s²·b·(A·Aᵀ)·bᵀ. The cost is one thin
/// product with W instead of one full matrix. What an initialisation took out of W counts as factors [B, −B0]·[A; A0].
/// </summary>
internal static class DoraNorm
{
    /// <summary>The norms [f], float32.</summary>
    /// <param name="squared">‖w‖² of each row [f].</param>
    /// <param name="weight">W [f, k], float32.</param>
    /// <param name="module">Factors and scaling.</param>
    public static Tensor Of(Tensor squared, Tensor weight, AdapterModule module)
    {
        using var scope = NewDisposeScope();
        Tensor a = module.A!.detach();
        Tensor b = module.B!.detach();
        if (module.AnchorA is not null)
        {
            (a, b) = (cat([a, module.AnchorA], 0), cat([b, module.AnchorB!.neg()], 1));
        }

        double s = module.Scaling;
        Tensor gram = a.mm(a.t()).mul_(s * s);
        Tensor inner = weight.mm(a.t()).mul_(2 * s).addmm_(b, gram);
        return squared.add(inner.mul_(b).sum(1)).clamp_min_(0).sqrt_().MoveToOuterDisposeScope();
    }
}
