using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>What a low-rank adapter starts from beside a quantised base.</summary>
public enum LowRankStartKind
{
    /// <summary>LoftQ (Li et al. 2023, algorithm 1): B·A makes up for what quantisation takes away.</summary>
    LoftQ,

    /// <summary>QPiSSA (Meng et al. 2024, section 4): B·A holds the largest singular values, the base what is left of W.</summary>
    QPissa,
}

/// <summary>
/// W ≈ Q + s·B·A with Q in 4 bits, found by quantising and decomposing in turn. Training then starts nearer to the
/// original model than from the plain QLoRA start, W ≈ Q.
/// </summary>
public sealed class LowRankStart : IDisposable
{
    private LowRankStart(FourBitWeight weight, Tensor a, Tensor b, double plainError, double error) =>
        (Weight, A, B, PlainError, Error) = (weight, a, b, plainError, error);

    /// <summary>Q [f, k].</summary>
    public FourBitWeight Weight { get; }

    /// <summary>A [r, k], float32.</summary>
    public Tensor A { get; }

    /// <summary>B [f, r], float32.</summary>
    public Tensor B { get; }

    /// <summary>‖W − Q‖ / ‖W‖ of the plain start, Frobenius norms.</summary>
    public double PlainError { get; }

    /// <summary>‖W − Q − s·B·A‖ / ‖W‖.</summary>
    public double Error { get; }

    /// <summary>Decomposes a matrix.</summary>
    /// <param name="kind">LoftQ or QPiSSA.</param>
    /// <param name="matrix">W [f, k] on the CPU, in the checkpoint's type, in which Q is quantised too.</param>
    /// <param name="name">For messages.</param>
    /// <param name="options">How Q is quantised.</param>
    /// <param name="rank">r.</param>
    /// <param name="scaling">s, by which the adapter multiplies B·A.</param>
    /// <param name="iterations">Rounds; both papers use 5.</param>
    /// <param name="decompose">The first r singular triples (U [f, r], S [r], Vᵀ [r, k]) of a float32 matrix.</param>
    public static LowRankStart Find(
        LowRankStartKind kind,
        Tensor matrix,
        string name,
        QuantizationOptions options,
        int rank,
        double scaling,
        int iterations,
        Func<Tensor, int, (Tensor U, Tensor S, Tensor Vt)> decompose)
    {
        ArgumentNullException.ThrowIfNull(matrix);
        ArgumentNullException.ThrowIfNull(decompose);
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Tensor w = matrix.to(ScalarType.Float32);
        double norm = w.norm().item<float>();
        Tensor product = zeros_like(w);
        (Tensor A, Tensor B) factors = (zeros(rank, w.shape[1]), zeros(w.shape[0], rank));
        if (kind == LowRankStartKind.QPissa)
        {
            (factors, product) = Factors(w);
        }

        FourBitWeight? weight = null;
        FourBitWeight? best = null;
        (Tensor A, Tensor B) bestFactors = factors;
        double bestError = double.PositiveInfinity;
        double plain = Quantized(w, out FourBitWeight first, w);
        first.Dispose();
        for (int i = 0; i < iterations; i++)
        {
            double residual = Quantized(w - product, out weight, w - product);
            if (kind == LowRankStartKind.LoftQ)
            {
                using Tensor q = weight.Dequantize(ScalarType.Float32);
                (factors, product) = Factors(w - q);
                residual = Relative(w - q - product);
            }

            // The rounds need not improve one on the other: the best one counts.
            if (residual < bestError)
            {
                best?.Dispose();
                (best, bestFactors, bestError) = (weight, factors, residual);
            }
            else
            {
                weight.Dispose();
            }

            if (kind == LowRankStartKind.QPissa && i + 1 < iterations)
            {
                using Tensor q = best!.Dequantize(ScalarType.Float32);
                (factors, product) = Factors(w - q);
            }
        }

        return new LowRankStart(best!, bestFactors.A.MoveToOuterDisposeScope(), bestFactors.B.MoveToOuterDisposeScope(), plain, bestError);

        double Relative(Tensor difference) => difference.norm().item<float>() / Math.Max(norm, double.Epsilon);

        double Quantized(Tensor value, out FourBitWeight result, Tensor target)
        {
            result = FourBitWeight.Quantize(value.to(matrix.dtype), name, options, CPU);
            using Tensor back = result.Dequantize(ScalarType.Float32);
            return Relative(target - back);
        }

        ((Tensor A, Tensor B) Factors, Tensor Product) Factors(Tensor value)
        {
            (Tensor u, Tensor s, Tensor vt) = decompose(value, rank);
            Tensor root = (s / scaling).sqrt();
            Tensor a = (vt * root.unsqueeze(1)).contiguous();
            Tensor b = (u * root.unsqueeze(0)).contiguous();
            return ((a, b), b.mm(a) * scaling);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Weight.Dispose();
        A.Dispose();
        B.Dispose();
    }
}
