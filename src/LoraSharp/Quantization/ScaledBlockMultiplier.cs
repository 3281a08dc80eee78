using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LoraSharp.Quantization;

/// <summary>
/// y = x·Wᵀ for a few rows of x straight from codes that share a scale a 32: four to eight bits are read for a weight,
/// which is what decoding costs on a CPU. Activations stay float32, so that only the order of the sum differs from a
/// product with the dequantised matrix (llama.cpp rounds them to 8 bits first).
/// </summary>
/// <typeparam name="TCodes">How codes lie in memory.</typeparam>
internal unsafe struct ScaledBlockMultiplier<TCodes> : IFewRowsWork
    where TCodes : struct, IBlockCodes
{
    // Blocks whose scales are widened at a time.
    private const int Batch = 512;

    private const int Block = ScaledBlockWeight.BlockSize;

    /// <summary>W [f, k].</summary>
    public byte* Codes;

    /// <summary>[f, k / 32] in half precision.</summary>
    public ushort* Scales;

    /// <summary>The same of minima, where the codes have them.</summary>
    public ushort* Minima;

    /// <summary>k, a multiple of 32.</summary>
    public int K;

    /// <summary>f.</summary>
    public int F;

    /// <summary>Which version runs.</summary>
    public VectorWidth Width;

    /// <inheritdoc/>
    public FewRowsOperands Operands { private readonly get; set; }

    /// <inheritdoc/>
    public readonly void Run(long begin, long end)
    {
        float* scales = stackalloc float[Batch];
        float* minima = stackalloc float[Batch];
        float* sums = stackalloc float[4];
        int blocks = K / Block;

        // Scales of several short rows at a time: widening them one row at a time costs as much as the row itself.
        int group = Math.Max(1, Batch / blocks);
        for (long row = begin; row < end; row += group)
        {
            int rows = (int)Math.Min(group, end - row);
            for (int first = 0; first < blocks; first += Batch)
            {
                int count = Math.Min(Batch, blocks - first);
                HalfConversion.HalfToSingle(Scales + (row * blocks) + first, scales, (long)rows * count);
                if (TCodes.HasMinimum)
                {
                    HalfConversion.HalfToSingle(Minima + (row * blocks) + first, minima, (long)rows * count);
                }

                for (int i = 0; i < rows; i++)
                {
                    Row(row + i, first, count, scales + (i * count), minima + (i * count), sums);
                }
            }
        }
    }

    /// <summary>A stretch of a row of W, which stays in the first cache, with all rows of x.</summary>
    private readonly void Row(long row, int first, int count, float* scales, float* minima, float* sums)
    {
        byte* codes = Codes + (((row * (K / Block)) + first) * TCodes.Bytes);
        float* x = Operands.X + ((long)first * Block);
        for (int m = 0; m < Operands.M;)
        {
            int rows = Rows(codes, scales, minima, count, x + ((long)m * K), Operands.M - m, sums);
            for (int i = 0; i < rows; i++)
            {
                float* target = Operands.Y + ((long)(m + i) * F) + row;
                *target = first == 0 ? sums[i] : *target + sums[i];
            }

            m += rows;
        }
    }

    /// <summary>A stretch of one row of W with as many rows of x as the version takes at once (4 or 1).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private readonly int Rows(byte* codes, float* scales, float* minima, int blocks, float* x, int left, float* sums)
    {
        switch (Width)
        {
            case VectorWidth.Avx512 when left >= 4:
                Four512(codes, scales, minima, blocks, x, sums);
                return 4;
            case VectorWidth.Avx512:
                sums[0] = TCodes.HasMinimum ? OneWithMinimum512(codes, scales, minima, blocks, x) : One512(codes, scales, blocks, x);
                return 1;
            case VectorWidth.Avx2:
                sums[0] = One256(codes, scales, minima, blocks, x);
                return 1;
            default:
                sums[0] = OneScalar(codes, scales, minima, blocks, x);
                return 1;
        }
    }

    private static float One512(byte* codes, float* scales, int blocks, float* x)
    {
        Vector512<float> even = Vector512<float>.Zero;
        Vector512<float> odd = Vector512<float>.Zero;
        int i = 0;
        for (; i + 2 <= blocks; i += 2, codes += 2 * TCodes.Bytes, x += 2 * Block)
        {
            TCodes.Load(codes, out Vector512<float> a, out Vector512<float> b);
            TCodes.Load(codes + TCodes.Bytes, out Vector512<float> c, out Vector512<float> d);
            Vector512<float> first = Avx512F.FusedMultiplyAdd(b, Vector512.Load(x + 16), a * Vector512.Load(x));
            Vector512<float> second = Avx512F.FusedMultiplyAdd(d, Vector512.Load(x + 48), c * Vector512.Load(x + 32));
            even = Avx512F.FusedMultiplyAdd(first, Vector512.Create(scales[i]), even);
            odd = Avx512F.FusedMultiplyAdd(second, Vector512.Create(scales[i + 1]), odd);
        }

        if (i < blocks)
        {
            TCodes.Load(codes, out Vector512<float> a, out Vector512<float> b);
            even = Avx512F.FusedMultiplyAdd(Avx512F.FusedMultiplyAdd(b, Vector512.Load(x + 16), a * Vector512.Load(x)), Vector512.Create(scales[i]), even);
        }

        return Vector512.Sum(even + odd);
    }

    private static float OneWithMinimum512(byte* codes, float* scales, float* minima, int blocks, float* x)
    {
        Vector512<float> even = default, odd = default, offsets = default;
        for (int i = 0; i < blocks; i++, codes += TCodes.Bytes, x += Block)
        {
            TCodes.Load(codes, out Vector512<float> a, out Vector512<float> b);
            Vector512<float> scale = Vector512.Create(scales[i]);
            Vector512<float> first = Vector512.Load(x);
            Vector512<float> second = Vector512.Load(x + 16);
            even = Avx512F.FusedMultiplyAdd(a * scale, first, even);
            odd = Avx512F.FusedMultiplyAdd(b * scale, second, odd);

            // The minimum is the same for the block: Σ m·x = m·Σ x.
            offsets = Avx512F.FusedMultiplyAdd(first + second, Vector512.Create(minima[i]), offsets);
        }

        return Vector512.Sum(even + odd + offsets);
    }

    private readonly void Four512(byte* codes, float* scales, float* minima, int blocks, float* x, float* sums)
    {
        Vector512<float> a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
        float* x1 = x + K;
        float* x2 = x1 + K;
        float* x3 = x2 + K;
        for (int i = 0; i < blocks; i++, codes += TCodes.Bytes, x += Block, x1 += Block, x2 += Block, x3 += Block)
        {
            Vector512<float> scale = Vector512.Create(scales[i]);
            TCodes.Load(codes, out Vector512<float> first, out Vector512<float> second);
            if (TCodes.HasMinimum)
            {
                Vector512<float> minimum = Vector512.Create(minima[i]);
                first = Avx512F.FusedMultiplyAdd(first, scale, minimum);
                second = Avx512F.FusedMultiplyAdd(second, scale, minimum);
            }
            else
            {
                first *= scale;
                second *= scale;
            }

            a0 = Avx512F.FusedMultiplyAdd(first, Vector512.Load(x), a0);
            a1 = Avx512F.FusedMultiplyAdd(second, Vector512.Load(x + 16), a1);
            b0 = Avx512F.FusedMultiplyAdd(first, Vector512.Load(x1), b0);
            b1 = Avx512F.FusedMultiplyAdd(second, Vector512.Load(x1 + 16), b1);
            c0 = Avx512F.FusedMultiplyAdd(first, Vector512.Load(x2), c0);
            c1 = Avx512F.FusedMultiplyAdd(second, Vector512.Load(x2 + 16), c1);
            d0 = Avx512F.FusedMultiplyAdd(first, Vector512.Load(x3), d0);
            d1 = Avx512F.FusedMultiplyAdd(second, Vector512.Load(x3 + 16), d1);
        }

        sums[0] = Vector512.Sum(a0 + a1);
        sums[1] = Vector512.Sum(b0 + b1);
        sums[2] = Vector512.Sum(c0 + c1);
        sums[3] = Vector512.Sum(d0 + d1);
    }

    private static float One256(byte* codes, float* scales, float* minima, int blocks, float* x)
    {
        Vector256<float> sum = Vector256<float>.Zero;
        for (int i = 0; i < blocks; i++, codes += TCodes.Bytes, x += Block)
        {
            TCodes.Load(codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d);
            Vector256<float> first = Fma.MultiplyAdd(c, Vector256.Load(x + 16), a * Vector256.Load(x));
            Vector256<float> second = Fma.MultiplyAdd(d, Vector256.Load(x + 24), b * Vector256.Load(x + 8));
            sum = Fma.MultiplyAdd(first + second, Vector256.Create(scales[i]), sum);
            if (TCodes.HasMinimum)
            {
                Vector256<float> inputs = (Vector256.Load(x) + Vector256.Load(x + 8)) + (Vector256.Load(x + 16) + Vector256.Load(x + 24));
                sum = Fma.MultiplyAdd(inputs, Vector256.Create(minima[i]), sum);
            }
        }

        return Vector256.Sum(sum);
    }

    private static float OneScalar(byte* codes, float* scales, float* minima, int blocks, float* x)
    {
        float total = 0;
        for (int i = 0; i < blocks; i++, codes += TCodes.Bytes, x += Block)
        {
            float sum = 0, inputs = 0;
            for (int j = 0; j < Block; j++)
            {
                sum += TCodes.Get(codes, j) * x[j];
                inputs += x[j];
            }

            total += TCodes.HasMinimum ? (sum * scales[i]) + (inputs * minima[i]) : sum * scales[i];
        }

        return total;
    }
}
