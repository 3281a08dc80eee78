using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LoraSharp.Quantization;

/// <summary>
/// y = x·Wᵀ for a few rows of x straight from super-blocks as a GGUF file has them. Activations stay float32, so that only
/// the order of the sum differs from a product with the dequantised matrix. <see cref="RowMultiplier{T}"/> is the plain
/// version.
/// </summary>
/// <typeparam name="TBlocks">How a block lies in memory.</typeparam>
internal unsafe struct SuperBlockMultiplier<TBlocks> : IFewRowsWork
    where TBlocks : unmanaged, ISuperBlocks
{
    /// <summary>W [f, k].</summary>
    public byte* Blocks;

    /// <summary>k, a multiple of 256.</summary>
    public int K;

    /// <summary>f.</summary>
    public int F;

    /// <summary>512-bit vectors; 256-bit ones otherwise.</summary>
    public bool IsWide;

    /// <inheritdoc/>
    public FewRowsOperands Operands { private readonly get; set; }

    /// <inheritdoc/>
    public readonly void Run(long begin, long end)
    {
        float* scales = stackalloc float[SuperBlock.Scales];
        float* sums = stackalloc float[4];
        int blocks = K / SuperBlock.Size;
        for (long row = begin; row < end; row++)
        {
            byte* first = Blocks + (row * blocks * TBlocks.Bytes);
            for (int m = 0; m < Operands.M;)
            {
                float* x = Operands.X + ((long)m * K);
                int rows = 1;
                if (IsWide && Operands.M - m >= 4)
                {
                    Four512(first, blocks, x, scales, sums);
                    rows = 4;
                }
                else
                {
                    sums[0] = IsWide ? One512(first, blocks, x, scales) : One256(first, blocks, x, scales);
                }

                for (int i = 0; i < rows; i++, m++)
                {
                    Operands.Y[((long)m * F) + row] = sums[i];
                }
            }
        }
    }

    private static float One512(byte* block, int blocks, float* x, float* scales)
    {
        Vector512<float> p = default, q = default, r = default, s = default;
        for (int i = 0; i < blocks; i++, block += TBlocks.Bytes, x += SuperBlock.Size)
        {
            // Written out, so that each quarter's shifts are constants.
            TBlocks.Scales(block, scales);
            Quarter(block, 0, x, scales, ref p, ref q, ref r, ref s);
            Quarter(block, 1, x, scales, ref p, ref q, ref r, ref s);
            Quarter(block, 2, x, scales, ref p, ref q, ref r, ref s);
            Quarter(block, 3, x, scales, ref p, ref q, ref r, ref s);
        }

        return Vector512.Sum((p + q) + (r + s));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Quarter(byte* block, int quarter, float* x, float* scales, ref Vector512<float> p, ref Vector512<float> q, ref Vector512<float> r, ref Vector512<float> s)
    {
        TBlocks.Load(block, quarter, scales, out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d);
        x += quarter * 64;
        p = Avx512F.FusedMultiplyAdd(a, Vector512.Load(x), p);
        q = Avx512F.FusedMultiplyAdd(b, Vector512.Load(x + 16), q);
        r = Avx512F.FusedMultiplyAdd(c, Vector512.Load(x + 32), r);
        s = Avx512F.FusedMultiplyAdd(d, Vector512.Load(x + 48), s);
    }

    private readonly void Four512(byte* block, int blocks, float* x, float* scales, float* sums)
    {
        Vector512<float> p0 = default, p1 = default, q0 = default, q1 = default, r0 = default, r1 = default, s0 = default, s1 = default;
        for (int i = 0; i < blocks; i++, block += TBlocks.Bytes)
        {
            TBlocks.Scales(block, scales);
            for (int quarter = 0; quarter < 4; quarter++, x += 64)
            {
                TBlocks.Load(block, quarter, scales, out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d);
                Add(a, b, c, d, x, ref p0, ref p1);
                Add(a, b, c, d, x + K, ref q0, ref q1);
                Add(a, b, c, d, x + (2L * K), ref r0, ref r1);
                Add(a, b, c, d, x + (3L * K), ref s0, ref s1);
            }
        }

        sums[0] = Vector512.Sum(p0 + p1);
        sums[1] = Vector512.Sum(q0 + q1);
        sums[2] = Vector512.Sum(r0 + r1);
        sums[3] = Vector512.Sum(s0 + s1);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d, float* x, ref Vector512<float> even, ref Vector512<float> odd)
    {
        even = Avx512F.FusedMultiplyAdd(a, Vector512.Load(x), even);
        odd = Avx512F.FusedMultiplyAdd(b, Vector512.Load(x + 16), odd);
        even = Avx512F.FusedMultiplyAdd(c, Vector512.Load(x + 32), even);
        odd = Avx512F.FusedMultiplyAdd(d, Vector512.Load(x + 48), odd);
    }

    private static float One256(byte* block, int blocks, float* x, float* scales)
    {
        Vector256<float> p = default, q = default, r = default, s = default;
        for (int i = 0; i < blocks; i++, block += TBlocks.Bytes)
        {
            TBlocks.Scales(block, scales);
            for (int eighth = 0; eighth < 8; eighth++, x += 32)
            {
                TBlocks.Load(block, eighth, scales, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d);
                p = Fma.MultiplyAdd(a, Vector256.Load(x), p);
                q = Fma.MultiplyAdd(b, Vector256.Load(x + 8), q);
                r = Fma.MultiplyAdd(c, Vector256.Load(x + 16), r);
                s = Fma.MultiplyAdd(d, Vector256.Load(x + 24), s);
            }
        }

        return Vector256.Sum((p + q) + (r + s));
    }
}
