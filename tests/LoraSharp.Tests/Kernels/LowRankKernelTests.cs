using CsCheck;
using LoraSharp.Kernels.Cpu;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Kernels;

/// <summary>
/// Low-rank factors on rows of a batch, against float64: any widths and ranks, rows with factors of their own beside rows
/// of the base, both types of input and of factors.
/// </summary>
public class LowRankKernelTests
{
    private static readonly ScalarType[] DTypes = [ScalarType.Float32, ScalarType.BFloat16];

    public LowRankKernelTests() => NativeRuntime.EnsureLoaded();

    // Widths around the vectors' 16, 32 and 64, and some that two threads share; a thread's part may begin anywhere.
    private static Gen<Case> Cases => Gen.Select(
        Gen.Int[0, 1 << 20], Gen.OneOf(Gen.Int[1, 140], Gen.Int[300, 900]), Gen.OneOf(Gen.Int[1, 140], Gen.Int[300, 900]),
        Gen.Int[0, 1], Gen.Int[0, 1], Gen.Bool,
        Gen.Select(Gen.Int[1, 5], Gen.OneOf(Gen.Const(0), Gen.Int[1, 64]), Gen.Bool).Array[1, 9],
        (seed, k, f, x, factors, bias, segments) => new Case(seed, k, f, DTypes[x], DTypes[factors], bias, segments));

    [Fact]
    public void Factors_are_added_to_their_rows_and_to_no_others() => Cases.Sample(
        one =>
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            Parts parts = Make(one);
            Tensor apart = FewRowsProduct.Multiply(parts.X, parts.W, parts.Bias, one.Rows, one.K, one.F, [one.Rows, one.F]);
            Near(parts.Base, apart, one.DType);
            LowRankKernel.Add(parts.X, apart, one.K, one.F, parts.Segments);
            Near(parts.Expected, apart, one.DType);

            // Folded into the product: the same to the bit, wherever a thread's part of the outputs begins.
            Tensor folded = FewRowsProduct.Multiply(parts.X, parts.W, parts.Bias, one.Rows, one.K, one.F, [one.Rows, one.F], parts.Segments);
            Assert.True(apart.equal(folded).all().item<bool>(), "folded in, the sums differ");
        },
        iter: 300,
        threads: 1);

    [Fact]
    public void A_rows_result_is_the_same_whatever_rows_are_beside_it() => Cases.Sample(
        one =>
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            Parts parts = Make(one);
            Tensor all = FewRowsProduct.Multiply(parts.X, parts.W, parts.Bias, one.Rows, one.K, one.F, [one.Rows, one.F], parts.Segments);
            for (long row = 0; row < one.Rows; row++)
            {
                LowRankKernel.Segment[] own = [.. parts.Segments.Where(s => s.First <= row && row < s.First + s.Count).Select(s => s with { First = 0, Count = 1 })];
                Tensor alone = FewRowsProduct.Multiply(parts.X.narrow(0, row, 1).contiguous(), parts.W, parts.Bias, 1, one.K, one.F, [1, one.F], own);
                Assert.True(alone.equal(all.narrow(0, row, 1)).all().item<bool>(), $"row {row} of {one.Rows}");
            }
        },
        iter: 60,
        threads: 1);

    private static Parts Make(Case one)
    {
        Generator random = new((ulong)one.Seed);
        Tensor x = Normal([one.Rows, one.K]).to(one.DType), w = (Normal([one.F, one.K]) / Math.Sqrt(one.K)).to(one.DType);
        Tensor? bias = one.HasBias ? Normal([one.F]).to(one.DType) : null;
        Tensor expected = nn.functional.linear(Wide(x), Wide(w), bias is null ? null! : Wide(bias));
        Tensor product = expected.clone();
        var segments = new List<LowRankKernel.Segment>();
        long first = 0;
        foreach ((int count, int rank, bool negative) in one.Segments)
        {
            if (rank > 0)
            {
                float scale = negative ? -0.7f : 1.3f;
                Tensor a = (Normal([rank, one.K]) / Math.Sqrt(one.K)).to(one.FactorType), b = (Normal([rank, one.F]) / Math.Sqrt(rank)).to(one.FactorType);
                segments.Add(new(first, count, new(AtenTensor.DataPointer(a), AtenTensor.DataPointer(b), rank, scale, one.FactorType == ScalarType.BFloat16)));
                expected.narrow(0, first, count).add_(Wide(x.narrow(0, first, count)).mm(Wide(a).t()).mm(Wide(b)), scale);
            }

            first += count;
        }

        return new(x, w, bias, product, expected, [.. segments]);

        Tensor Normal(long[] shape) => randn(shape, generator: random);
    }

    private static Tensor Wide(Tensor tensor) => tensor.to(ScalarType.Float64);

    private static void Near(Tensor expected, Tensor actual, ScalarType dtype)
    {
        Assert.Equal(dtype, actual.dtype);
        Assert.Equal(expected.shape, actual.shape);
        double largest = expected.abs().max().item<double>();
        Assert.InRange((expected - Wide(actual)).abs().max().item<double>(), 0, largest * (dtype == ScalarType.Float32 ? 3e-6 : 1.0 / 100));
    }

    private sealed record Case(int Seed, int K, int F, ScalarType DType, ScalarType FactorType, bool HasBias, (int Count, int Rank, bool Negative)[] Segments)
    {
        public int Rows => Segments.Sum(s => s.Count);
    }

    private sealed record Parts(Tensor X, Tensor W, Tensor? Bias, Tensor Base, Tensor Expected, LowRankKernel.Segment[] Segments);
}
