using static TorchSharp.torch;

namespace LoraSharp.Adapters.Combining;

/// <summary>The arithmetic of one module's combination.</summary>
internal sealed class Combination(CombineOptions options, int rank, Generator generator)
{
    /// <summary>Largest share of a matrix's norm that cutting to the rank has lost so far.</summary>
    public double LargestLoss { get; private set; }

    /// <summary>A [r, k] and B [f, r] of the combination, in the current scope.</summary>
    public (Tensor A, Tensor B) Of(IReadOnlyList<(AdapterModule Module, double Weight)> inputs) => options.Method switch
    {
        CombineMethod.Cat => Cat(inputs),
        CombineMethod.Svd => Cut(Factors(inputs)),
        _ when options.Cuts => Cut(Updates(inputs)),
        _ => Sum(inputs),
    };

    // With fewer adapters than in other modules the rest of the rank is zero, so that one rank holds for all.
    private (Tensor A, Tensor B) Cat(IReadOnlyList<(AdapterModule Module, double Weight)> inputs)
    {
        Tensor a = cat([.. inputs.Select(i => i.Module.A! * (float)i.Weight * (float)i.Module.Scaling)], 0);
        Tensor b = cat([.. inputs.Select(i => i.Module.B!)], 1);
        long missing = rank - a.shape[0];
        return missing <= 0
            ? (a, b)
            : (cat([a, zeros(missing, a.shape[1])], 0), cat([b, zeros(b.shape[0], missing)], 1));
    }

    // The root of weight · scaling on both factors; a negative sign on A alone, else it would vanish in the product.
    private (Tensor A, Tensor B) Sum(IReadOnlyList<(AdapterModule Module, double Weight)> inputs)
    {
        double[] scaled = [.. inputs.Select(i => i.Weight * i.Module.Scaling)];
        var vectors = Vectors();
        return (
            vectors.Combine([.. inputs.Select(i => i.Module.A!)], [.. scaled.Select(w => Math.Sqrt(Math.Abs(w)) * (w >= 0 ? 1 : -1))]),
            vectors.Combine([.. inputs.Select(i => i.Module.B!)], [.. scaled.Select(w => Math.Sqrt(Math.Abs(w)))]));
    }

    // Updates hold their scaling already.
    private Tensor Updates(IReadOnlyList<(AdapterModule Module, double Weight)> inputs)
    {
        Tensor[] updates = [.. inputs.Select(i => i.Module.Delta()!)];
        return Vectors().Combine(updates, [.. inputs.Select(i => i.Weight)]);
    }

    private static (Tensor Left, Tensor Right) Factors(IReadOnlyList<(AdapterModule Module, double Weight)> inputs) =>
        (cat([.. inputs.Select(i => i.Module.B! * (float)(i.Weight * i.Module.Scaling))], 1), cat([.. inputs.Select(i => i.Module.A!)], 0));

    private (Tensor A, Tensor B) Cut((Tensor Left, Tensor Right) factors)
    {
        (Tensor u, Tensor s, Tensor vt) = LowRankSvd.OfProduct(factors.Left, factors.Right);
        return Cut(u, s, vt);
    }

    private (Tensor A, Tensor B) Cut(Tensor update)
    {
        (Tensor u, Tensor s, Tensor vt) = linalg.svd(update, fullMatrices: false);
        return Cut(u, s, vt);
    }

    private (Tensor A, Tensor B) Cut(Tensor u, Tensor s, Tensor vt)
    {
        long kept = Math.Min(rank, s.shape[0]);
        double all = s.mul(s).sum().item<float>();
        double rest = s.shape[0] > kept ? s.narrow(0, kept, s.shape[0] - kept).pow(2).sum().item<float>() : 0;
        LargestLoss = Math.Max(LargestLoss, all > 0 ? Math.Sqrt(rest / all) : 0);
        (Tensor a, Tensor b) = (vt.narrow(0, 0, kept), u.narrow(1, 0, kept) * s.narrow(0, 0, kept));
        // A sum of fewer ranks than asked for is exact already; zeros keep one rank for all modules.
        long missing = Math.Min(rank, Math.Min(u.shape[0], vt.shape[1])) - kept;
        return missing <= 0
            ? (a.contiguous(), b.contiguous())
            : (cat([a, zeros(missing, a.shape[1])], 0), cat([b, zeros(b.shape[0], missing)], 1));
    }

    private TaskVectors Vectors() => new(
        options.Method switch
        {
            CombineMethod.Ties or CombineMethod.TiesSvd => TaskMethod.Ties,
            CombineMethod.DareLinear or CombineMethod.DareLinearSvd => TaskMethod.DareLinear,
            CombineMethod.DareTies or CombineMethod.DareTiesSvd => TaskMethod.DareTies,
            CombineMethod.MagnitudePrune or CombineMethod.MagnitudePruneSvd => TaskMethod.MagnitudePrune,
            _ => TaskMethod.Linear,
        },
        options.Density ?? 1,
        options.ByFrequency,
        generator);
}
