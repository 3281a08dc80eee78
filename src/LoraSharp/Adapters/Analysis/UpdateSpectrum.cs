using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Analysis;

/// <summary>ΔW as U·diag(σ)·Vᵀ, from its factors alone: QR of both, then a decomposition of r × r numbers.</summary>
public sealed class UpdateSpectrum : IDisposable
{
    static UpdateSpectrum() => NativeRuntime.EnsureLoaded();

    private UpdateSpectrum(Tensor u, Tensor values, Tensor vt)
    {
        U = u;
        Values = values;
        Vt = vt;
    }

    /// <summary>[f, r].</summary>
    public Tensor U { get; }

    /// <summary>[r], falling.</summary>
    public Tensor Values { get; }

    /// <summary>[r, k].</summary>
    public Tensor Vt { get; }

    /// <summary>Decomposes a module's update (of DoRA: its direction's).</summary>
    public static UpdateSpectrum Of(AdapterModule module)
    {
        ArgumentNullException.ThrowIfNull(module);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        Tensor left = module.B! * (float)module.Scaling;
        Tensor right = module.A!;
        if (module.AnchorA is not null)
        {
            (left, right) = (cat([left, module.AnchorB! * (float)-module.Scaling], 1), cat([right, module.AnchorA], 0));
        }

        (Tensor u, Tensor s, Tensor vt) = LowRankSvd.OfProduct(left, right);
        return new(u.DetachFromDisposeScope(), s.DetachFromDisposeScope(), vt.DetachFromDisposeScope());
    }

    /// <summary>The figures, with the base weight those that need it.</summary>
    /// <param name="weight">W [f, k], float32, or null.</param>
    /// <param name="generator">For the top of W, on the CPU.</param>
    public SpectrumReport Report(Tensor? weight, Generator generator)
    {
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        double[] values = [.. Values.to(ScalarType.Float64).data<double>()];
        double energy = values.Sum(v => v * v);
        double[] shares = [.. values.Select(v => energy > 0 ? v * v / energy : 0)];
        double entropy = -shares.Where(s => s > 0).Sum(s => s * Math.Log(s));
        double running = 0;
        double? amplification = null;
        double? inTop = null;
        if (weight is not null && energy > 0)
        {
            int rank = values.Length;
            double norm = Math.Sqrt(energy);
            // Directions that carry nothing are arbitrary and would blur the quotient.
            int used = Math.Max(1, values.Count(v => v > values[0] * 1e-6));
            Tensor projected = U.narrow(1, 0, used).t().mm(weight).mm(Vt.narrow(0, 0, used).t());
            double inBase = linalg.norm(projected).item<float>();
            amplification = inBase > 0 ? norm / inBase : null;
            int top = (int)Math.Min(rank, Math.Min(weight.shape[0], weight.shape[1]));
            (Tensor u, Tensor s, Tensor vt) = LowRankSvd.Randomised(weight, top, 6, generator);
            Tensor inside = u.t().mm(U * Values).mm(Vt.mm(vt.t()));
            inTop = linalg.norm(inside).item<float>() / norm;
        }

        return new SpectrumReport
        {
            SingularValues = values,
            EffectiveRank = energy > 0 ? Math.Exp(entropy) : 0,
            StableRank = energy > 0 ? energy / (values[0] * values[0]) : 0,
            EnergyByRank = [.. shares.Select(s => Math.Min(1, running += s))],
            AmplificationFactor = amplification,
            InTopOfBase = inTop,
        };
    }

    /// <summary>Compares the directions with another update's of the same layer.</summary>
    /// <param name="other">The other.</param>
    /// <param name="grid">Directions of each in the grid.</param>
    public SimilarityReport Compare(UpdateSpectrum other, int grid = 8)
    {
        ArgumentNullException.ThrowIfNull(other);
        using var scope = NewDisposeScope();
        using var _ = no_grad();
        (int mine, int theirs) = (Used(this), Used(other));
        Tensor input = Vt.narrow(0, 0, mine).mm(other.Vt.narrow(0, 0, theirs).t()).square();
        Tensor output = U.narrow(1, 0, mine).t().mm(other.U.narrow(1, 0, theirs)).square();
        double least = Math.Min(mine, theirs);
        var rows = new List<IReadOnlyList<double>>();
        for (int i = 1; i <= Math.Min(grid, mine); i++)
        {
            var row = new List<double>();
            for (int j = 1; j <= Math.Min(grid, theirs); j++)
            {
                row.Add(input.narrow(0, 0, i).narrow(1, 0, j).sum().item<float>() / Math.Min(i, j));
            }

            rows.Add(row);
        }

        // ⟨U₁S₁V₁ᵀ, U₂S₂V₂ᵀ⟩ = Σ (U₁ᵀU₂)∘(V₁ᵀV₂)∘(s₁s₂ᵀ).
        Tensor inner = U.t().mm(other.U) * Vt.mm(other.Vt.t()) * Values.unsqueeze(1) * other.Values.unsqueeze(0);
        double norms = linalg.norm(Values).item<float>() * (double)linalg.norm(other.Values).item<float>();
        return new SimilarityReport
        {
            Input = input.sum().item<float>() / least,
            Output = output.sum().item<float>() / least,
            InputGrid = rows,
            Cosine = norms > 0 ? inner.sum().item<float>() / norms : 0,
        };
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        U.Dispose();
        Values.Dispose();
        Vt.Dispose();
    }

    private static int Used(UpdateSpectrum spectrum)
    {
        using Tensor largest = spectrum.Values.max();
        using Tensor used = spectrum.Values.gt(largest * 1e-6).sum();
        return Math.Max(1, (int)used.item<long>());
    }
}
