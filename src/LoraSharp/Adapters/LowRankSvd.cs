using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>Singular value decompositions of matrices of low rank, or of which only the top is wanted.</summary>
public static class LowRankSvd
{
    static LowRankSvd() => NativeRuntime.EnsureLoaded();

    /// <summary>
    /// The first <paramref name="rank"/> singular triples by subspace iteration from a random start (Halko, Martinsson
    /// and Tropp 2011, algorithms 4.4 and 5.1).
    /// </summary>
    /// <param name="matrix">[f, k].</param>
    /// <param name="rank">r.</param>
    /// <param name="iterations">Power iterations; 2 to 20 in practice.</param>
    /// <param name="generator">On the CPU.</param>
    /// <returns>U [f, r], S [r] falling, Vᵀ [r, k], for the caller to dispose.</returns>
    public static (Tensor U, Tensor S, Tensor Vt) Randomised(Tensor matrix, int rank, int iterations, Generator generator)
    {
        ArgumentNullException.ThrowIfNull(matrix);
        using var scope = NewDisposeScope();
        Tensor start = empty(matrix.shape[1], rank).normal_(0, 1, generator).to(matrix.device);
        (Tensor q, _) = linalg.qr(matrix.mm(start));
        for (int i = 0; i < iterations; i++)
        {
            (q, _) = linalg.qr(matrix.t().mm(q));
            (q, _) = linalg.qr(matrix.mm(q));
        }

        (Tensor u, Tensor s, Tensor vt) = linalg.svd(q.t().mm(matrix), fullMatrices: false);
        return (q.mm(u).MoveToOuterDisposeScope(), s.MoveToOuterDisposeScope(), vt.MoveToOuterDisposeScope());
    }

    /// <summary>
    /// The decomposition of L·R without forming it: QR of both factors, then the decomposition of a small matrix.
    /// </summary>
    /// <param name="left">L [f, r].</param>
    /// <param name="right">R [r, k].</param>
    /// <returns>U [f, q], S [q] falling, Vᵀ [q, k] with q = min(r, f, k), for the caller to dispose.</returns>
    public static (Tensor U, Tensor S, Tensor Vt) OfProduct(Tensor left, Tensor right)
    {
        ArgumentNullException.ThrowIfNull(left);
        ArgumentNullException.ThrowIfNull(right);
        using var scope = NewDisposeScope();
        (Tensor ql, Tensor rl) = linalg.qr(left);
        (Tensor qr, Tensor rr) = linalg.qr(right.t());
        (Tensor u, Tensor s, Tensor vt) = linalg.svd(rl.mm(rr.t()), fullMatrices: false);
        return (ql.mm(u).MoveToOuterDisposeScope(), s.MoveToOuterDisposeScope(), vt.mm(qr.t()).MoveToOuterDisposeScope());
    }
}
