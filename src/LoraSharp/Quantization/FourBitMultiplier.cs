using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LoraSharp.Formats;
using LoraSharp.Tensors.Interop;

namespace LoraSharp.Quantization;

/// <summary>
/// Y = X·Wᵀ for a few rows of X straight from the packed codes: half a byte is read for each weight, which is what
/// decoding costs on a CPU. Weights are exactly those that <see cref="FourBitDequantizer"/> gives in float32; only the
/// order of the sum differs from a matrix product.
/// </summary>
internal static unsafe class FourBitMultiplier
{
    // Blocks whose scales are decoded at a time.
    private const int Batch = 256;

    /// <summary>Whether the kernel takes this shape: every row of W must consist of whole blocks.</summary>
    public static bool Supports(long inFeatures, int blockSize) => inFeatures % blockSize == 0;

    /// <summary>Multiplies.</summary>
    /// <param name="packed">W [f, k], packed.</param>
    /// <param name="scales">One a block.</param>
    /// <param name="blockSize">Values a block; divides k.</param>
    /// <param name="codebook">NF4 or FP4.</param>
    /// <param name="x">[m, k], float32 or bfloat16.</param>
    /// <param name="y">[m, f], of the type of x.</param>
    /// <param name="type">F32 or BF16.</param>
    /// <param name="m">Rows of X.</param>
    /// <param name="k">Columns of W.</param>
    /// <param name="f">Rows of W.</param>
    /// <param name="width">Which version of the kernel.</param>
    /// <param name="rounding">Type that weights are rounded to first (<see cref="BlockTable"/>); F32 for none.</param>
    public static void Multiply(byte* packed, ScaleTable scales, int blockSize, FourBitCodebook codebook, void* x, void* y, ElementType type, int m, int k, int f, VectorWidth width, ElementType rounding = ElementType.F32)
    {
        float* values = stackalloc float[16];
        codebook.Values.CopyTo(new Span<float>(values, 16));
        float[] rented = ArrayPool<float>.Shared.Rent((m * k) + (type == ElementType.F32 ? 0 : m * f) + 16);
        try
        {
            fixed (float* start = rented)
            {
                // A 512-bit load that crosses a cache line costs two: from the next multiple of 64 bytes on none does.
                float* split = (float*)(((nuint)start + 63) & ~(nuint)63);
                float* sums = type == ElementType.F32 ? (float*)y : split + (m * k);
                Split(x, type, split, (long)m * k);
                var work = new Work
                {
                    Packed = packed,
                    Scales = scales,
                    BlockSize = blockSize,
                    Codebook = values,
                    X = split,
                    Y = sums,
                    M = m,
                    K = k,
                    F = f,
                    Rounding = rounding,
                    Width = width,
                };

                // About 100k weights, 5 µs, a thread at least.
                ParallelRange.For(0, f, Math.Max(1, 100_000 / k), ref work);
                if (type == ElementType.BF16)
                {
                    HalfConversion.SingleToBFloat16(sums, (ushort*)y, (long)m * f);
                }
            }
        }
        finally
        {
            ArrayPool<float>.Shared.Return(rented);
        }
    }

    /// <summary>
    /// Of every 32 values the 16 even ones, then the 16 odd ones: so the high halves of 16 bytes meet one vector and the
    /// low halves the next, and codes need no shuffling.
    /// </summary>
    private static void Split(void* x, ElementType type, float* split, long count)
    {
        for (long i = 0; i < count; i += 32)
        {
            if (type == ElementType.BF16)
            {
                // In each pair of bfloat16s the even one is the low half.
                Vector512<uint> pairs = Vector512.Load((uint*)((ushort*)x + i));
                (pairs << 16).AsSingle().Store(split + i);
                (pairs & Vector512.Create(0xFFFF0000)).AsSingle().Store(split + i + 16);
                continue;
            }

            float* piece = (float*)x + i;
            for (int j = 0; j < 16; j++)
            {
                split[i + j] = piece[2 * j];
                split[i + 16 + j] = piece[(2 * j) + 1];
            }
        }
    }

    private struct Work : IRangeWork
    {
        public byte* Packed;
        public ScaleTable Scales;
        public int BlockSize;
        public float* Codebook;
        public float* X;
        public float* Y;
        public int M;
        public int K;
        public int F;
        public ElementType Rounding;
        public VectorWidth Width;

        public readonly void Run(long begin, long end)
        {
            float* scratch = stackalloc float[Batch];
            float* sums = stackalloc float[4];
            int blocks = K / BlockSize;

            // Scales of several short rows at a time: decoding them one row at a time costs as much as the row itself.
            int group = Math.Max(1, Batch / blocks);
            for (long row = begin; row < end; row += group)
            {
                int rows = (int)Math.Min(group, end - row);
                for (int first = 0; first < blocks; first += Batch)
                {
                    int count = Math.Min(Batch, blocks - first);
                    float* scales = Scales.Read((row * blocks) + first, rows * count, scratch);
                    for (int i = 0; i < rows; i++)
                    {
                        Row(row + i, first, count, scales + (i * count), sums);
                    }
                }
            }
        }

        /// <summary>A stretch of a row of W, which stays in the first cache, with all rows of X.</summary>
        private readonly void Row(long row, int first, int count, float* scales, float* sums)
        {
            byte* codes = Packed + (((row * K) + ((long)first * BlockSize)) / 2);
            float* x = X + ((long)first * BlockSize);
            for (int m = 0; m < M;)
            {
                int rows = Rows(codes, scales, count, x + ((long)m * K), M - m, sums);
                for (int i = 0; i < rows; i++)
                {
                    float* target = Y + ((long)(m + i) * F) + row;
                    *target = first == 0 ? sums[i] : *target + sums[i];
                }

                m += rows;
            }
        }

        /// <summary>One row of W with as many rows of X as the version takes at once (4, 2 or 1).</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private readonly int Rows(byte* codes, float* scales, int blocks, float* x, int left, float* sums)
        {
            switch (Width)
            {
                case VectorWidth.Avx512 when left >= 4:
                    Four512(codes, scales, blocks, x, sums);
                    return 4;
                case VectorWidth.Avx512 when left >= 2:
                    Two512(codes, scales, blocks, x, sums);
                    return 2;
                case VectorWidth.Avx512:
                    sums[0] = One512(codes, scales, blocks, x);
                    return 1;
                case VectorWidth.Avx2 when left >= 2:
                    Two256(codes, scales, blocks, x, sums);
                    return 2;
                case VectorWidth.Avx2:
                    sums[0] = One256(codes, scales, blocks, x);
                    return 1;
                default:
                    sums[0] = OneScalar(codes, scales, blocks, x);
                    return 1;
            }
        }

        private readonly float One512(byte* codes, float* scales, int blocks, float* x)
        {
            Vector512<float> codebook = Vector512.Load(Codebook);
            Vector512<float> a = Vector512<float>.Zero;
            Vector512<float> b = a;
            Vector512<float> c = a;
            Vector512<float> d = a;
            for (int block = 0; block < blocks; block++)
            {
                Vector512<float> table = BlockTable.Make(codebook, scales[block], Rounding);
                int i = 0;
                for (; i + 64 <= BlockSize; i += 64, codes += 32, x += 64)
                {
                    Vector512<int> first = Avx512F.ConvertToVector512Int32(Vector128.Load(codes));
                    Vector512<int> second = Avx512F.ConvertToVector512Int32(Vector128.Load(codes + 16));
                    a = Avx512F.FusedMultiplyAdd(Avx512F.PermuteVar16x32(table, first >> 4), Vector512.Load(x), a);
                    b = Avx512F.FusedMultiplyAdd(Avx512F.PermuteVar16x32(table, first), Vector512.Load(x + 16), b);
                    c = Avx512F.FusedMultiplyAdd(Avx512F.PermuteVar16x32(table, second >> 4), Vector512.Load(x + 32), c);
                    d = Avx512F.FusedMultiplyAdd(Avx512F.PermuteVar16x32(table, second), Vector512.Load(x + 48), d);
                }

                if (i < BlockSize)
                {
                    Vector512<int> bytes = Avx512F.ConvertToVector512Int32(Vector128.Load(codes));
                    a = Avx512F.FusedMultiplyAdd(Avx512F.PermuteVar16x32(table, bytes >> 4), Vector512.Load(x), a);
                    b = Avx512F.FusedMultiplyAdd(Avx512F.PermuteVar16x32(table, bytes), Vector512.Load(x + 16), b);
                    codes += 16;
                    x += 32;
                }
            }

            return Vector512.Sum((a + b) + (c + d));
        }

        private readonly void Two512(byte* codes, float* scales, int blocks, float* x, float* sums)
        {
            Vector512<float> codebook = Vector512.Load(Codebook);
            Vector512<float> a = Vector512<float>.Zero;
            Vector512<float> b = a;
            Vector512<float> c = a;
            Vector512<float> d = a;
            float* x1 = x + K;
            for (int block = 0; block < blocks; block++)
            {
                Vector512<float> table = BlockTable.Make(codebook, scales[block], Rounding);
                for (int i = 0; i < BlockSize; i += 32, codes += 16, x += 32, x1 += 32)
                {
                    Vector512<int> bytes = Avx512F.ConvertToVector512Int32(Vector128.Load(codes));
                    Vector512<float> even = Avx512F.PermuteVar16x32(table, bytes >> 4);
                    Vector512<float> odd = Avx512F.PermuteVar16x32(table, bytes);
                    a = Avx512F.FusedMultiplyAdd(even, Vector512.Load(x), a);
                    b = Avx512F.FusedMultiplyAdd(odd, Vector512.Load(x + 16), b);
                    c = Avx512F.FusedMultiplyAdd(even, Vector512.Load(x1), c);
                    d = Avx512F.FusedMultiplyAdd(odd, Vector512.Load(x1 + 16), d);
                }
            }

            sums[0] = Vector512.Sum(a + b);
            sums[1] = Vector512.Sum(c + d);
        }

        private readonly void Four512(byte* codes, float* scales, int blocks, float* x, float* sums)
        {
            Vector512<float> codebook = Vector512.Load(Codebook);
            Vector512<float> a = Vector512<float>.Zero;
            Vector512<float> b = a;
            Vector512<float> c = a;
            Vector512<float> d = a;
            Vector512<float> e = a;
            Vector512<float> f = a;
            Vector512<float> g = a;
            Vector512<float> h = a;
            float* x1 = x + K;
            float* x2 = x1 + K;
            float* x3 = x2 + K;
            for (int block = 0; block < blocks; block++)
            {
                Vector512<float> table = BlockTable.Make(codebook, scales[block], Rounding);
                for (int i = 0; i < BlockSize; i += 32, codes += 16, x += 32, x1 += 32, x2 += 32, x3 += 32)
                {
                    Vector512<int> bytes = Avx512F.ConvertToVector512Int32(Vector128.Load(codes));
                    Vector512<float> even = Avx512F.PermuteVar16x32(table, bytes >> 4);
                    Vector512<float> odd = Avx512F.PermuteVar16x32(table, bytes);
                    a = Avx512F.FusedMultiplyAdd(even, Vector512.Load(x), a);
                    b = Avx512F.FusedMultiplyAdd(odd, Vector512.Load(x + 16), b);
                    c = Avx512F.FusedMultiplyAdd(even, Vector512.Load(x1), c);
                    d = Avx512F.FusedMultiplyAdd(odd, Vector512.Load(x1 + 16), d);
                    e = Avx512F.FusedMultiplyAdd(even, Vector512.Load(x2), e);
                    f = Avx512F.FusedMultiplyAdd(odd, Vector512.Load(x2 + 16), f);
                    g = Avx512F.FusedMultiplyAdd(even, Vector512.Load(x3), g);
                    h = Avx512F.FusedMultiplyAdd(odd, Vector512.Load(x3 + 16), h);
                }
            }

            sums[0] = Vector512.Sum(a + b);
            sums[1] = Vector512.Sum(c + d);
            sums[2] = Vector512.Sum(e + f);
            sums[3] = Vector512.Sum(g + h);
        }

        private readonly float One256(byte* codes, float* scales, int blocks, float* x)
        {
            Vector256<float> codebookLow = Vector256.Load(Codebook);
            Vector256<float> codebookHigh = Vector256.Load(Codebook + 8);
            Vector256<float> a = Vector256<float>.Zero;
            Vector256<float> b = a;
            Vector256<float> c = a;
            Vector256<float> d = a;
            for (int block = 0; block < blocks; block++)
            {
                Vector256<float> low = BlockTable.Make(codebookLow, scales[block], Rounding);
                Vector256<float> high = BlockTable.Make(codebookHigh, scales[block], Rounding);
                for (int i = 0; i < BlockSize; i += 32, codes += 16, x += 32)
                {
                    Vector256<int> first = Avx2.ConvertToVector256Int32(codes);
                    Vector256<int> second = Avx2.ConvertToVector256Int32(codes + 8);
                    a = Fma.MultiplyAdd(FourBitDequantizer.Lookup(low, high, first >> 4), Vector256.Load(x), a);
                    b = Fma.MultiplyAdd(FourBitDequantizer.Lookup(low, high, second >> 4), Vector256.Load(x + 8), b);
                    c = Fma.MultiplyAdd(FourBitDequantizer.Lookup(low, high, first), Vector256.Load(x + 16), c);
                    d = Fma.MultiplyAdd(FourBitDequantizer.Lookup(low, high, second), Vector256.Load(x + 24), d);
                }
            }

            return Vector256.Sum((a + b) + (c + d));
        }

        private readonly void Two256(byte* codes, float* scales, int blocks, float* x, float* sums)
        {
            Vector256<float> codebookLow = Vector256.Load(Codebook);
            Vector256<float> codebookHigh = Vector256.Load(Codebook + 8);
            Vector256<float> a = Vector256<float>.Zero;
            Vector256<float> b = a;
            Vector256<float> c = a;
            Vector256<float> d = a;
            float* x1 = x + K;
            for (int block = 0; block < blocks; block++)
            {
                Vector256<float> low = BlockTable.Make(codebookLow, scales[block], Rounding);
                Vector256<float> high = BlockTable.Make(codebookHigh, scales[block], Rounding);
                for (int i = 0; i < BlockSize; i += 32, codes += 16, x += 32, x1 += 32)
                {
                    for (int half = 0; half < 16; half += 8)
                    {
                        Vector256<int> bytes = Avx2.ConvertToVector256Int32(codes + half);
                        Vector256<float> even = FourBitDequantizer.Lookup(low, high, bytes >> 4);
                        Vector256<float> odd = FourBitDequantizer.Lookup(low, high, bytes);
                        a = Fma.MultiplyAdd(even, Vector256.Load(x + half), a);
                        b = Fma.MultiplyAdd(odd, Vector256.Load(x + half + 16), b);
                        c = Fma.MultiplyAdd(even, Vector256.Load(x1 + half), c);
                        d = Fma.MultiplyAdd(odd, Vector256.Load(x1 + half + 16), d);
                    }
                }
            }

            sums[0] = Vector256.Sum(a + b);
            sums[1] = Vector256.Sum(c + d);
        }

        private readonly float OneScalar(byte* codes, float* scales, int blocks, float* x)
        {
            float* table = stackalloc float[16];
            float total = 0;
            for (int block = 0; block < blocks; block++)
            {
                BlockTable.Make(Codebook, scales[block], Rounding, table);
                for (int i = 0; i < BlockSize; i += 32, codes += 16, x += 32)
                {
                    for (int j = 0; j < 16; j++)
                    {
                        total += (table[codes[j] >> 4] * x[j]) + (table[codes[j] & 15] * x[j + 16]);
                    }
                }
            }

            return total;
        }
    }
}
