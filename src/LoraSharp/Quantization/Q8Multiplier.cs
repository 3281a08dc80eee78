using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LoraSharp.Tensors.Interop;

namespace LoraSharp.Quantization;

/// <summary>Y = X·Wᵀ for a few rows of float32 X straight from signed bytes with a scale a 32 weights.</summary>
internal static unsafe class Q8Multiplier
{
    /// <summary>Rows of X up to which this beats dequantising W and a matrix product (docs/benchmarks/nf4.md).</summary>
    public const int MostRows = 8;

    private const int Block = Q8Weight.BlockSize;

    /// <summary>Multiplies.</summary>
    /// <param name="codes">W [f, k].</param>
    /// <param name="scales">[f, k / 32].</param>
    /// <param name="x">[m, k].</param>
    /// <param name="y">[m, f].</param>
    /// <param name="m">Rows of X.</param>
    /// <param name="k">Columns of W, a multiple of 32.</param>
    /// <param name="f">Rows of W.</param>
    /// <param name="width">Which version of the kernel.</param>
    public static void Multiply(sbyte* codes, float* scales, float* x, float* y, int m, int k, int f, VectorWidth width)
    {
        var work = new Work { Codes = codes, Scales = scales, X = x, Y = y, M = m, K = k, F = f, Width = width };
        ParallelRange.For(0, f, Math.Max(1, 100_000 / k), ref work);
    }

    private struct Work : IRangeWork
    {
        public sbyte* Codes;
        public float* Scales;
        public float* X;
        public float* Y;
        public int M;
        public int K;
        public int F;
        public VectorWidth Width;

        public readonly void Run(long begin, long end)
        {
            for (long row = begin; row < end; row++)
            {
                // The row of W stays in the first cache for all rows of X.
                sbyte* codes = Codes + (row * K);
                float* scales = Scales + (row * (K / Block));
                for (int m = 0; m < M; m++)
                {
                    float* x = X + ((long)m * K);
                    Y[((long)m * F) + row] = Width switch
                    {
                        VectorWidth.Avx512 => Row512(codes, scales, x),
                        VectorWidth.Avx2 => Row256(codes, scales, x),
                        _ => RowScalar(codes, scales, x),
                    };
                }
            }
        }

        private readonly float Row512(sbyte* codes, float* scales, float* x)
        {
            Vector512<float> even = Vector512<float>.Zero;
            Vector512<float> odd = Vector512<float>.Zero;
            int i = 0;
            for (; i + (2 * Block) <= K; i += 2 * Block, scales += 2)
            {
                even = Avx512F.FusedMultiplyAdd(Product512(codes + i, x + i), Vector512.Create(scales[0]), even);
                odd = Avx512F.FusedMultiplyAdd(Product512(codes + i + Block, x + i + Block), Vector512.Create(scales[1]), odd);
            }

            if (i < K)
            {
                even = Avx512F.FusedMultiplyAdd(Product512(codes + i, x + i), Vector512.Create(scales[0]), even);
            }

            return Vector512.Sum(even + odd);
        }

        private static Vector512<float> Product512(sbyte* codes, float* x)
        {
            Vector512<float> low = Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(Vector128.Load(codes)));
            Vector512<float> high = Avx512F.ConvertToVector512Single(Avx512F.ConvertToVector512Int32(Vector128.Load(codes + 16)));
            return Avx512F.FusedMultiplyAdd(high, Vector512.Load(x + 16), low * Vector512.Load(x));
        }

        private readonly float Row256(sbyte* codes, float* scales, float* x)
        {
            Vector256<float> sum = Vector256<float>.Zero;
            for (int i = 0; i < K; i += Block)
            {
                Vector256<float> first = Vector256<float>.Zero;
                Vector256<float> second = Vector256<float>.Zero;
                for (int j = i; j < i + Block; j += 16)
                {
                    first = Fma.MultiplyAdd(Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(codes + j)), Vector256.Load(x + j), first);
                    second = Fma.MultiplyAdd(Avx.ConvertToVector256Single(Avx2.ConvertToVector256Int32(codes + j + 8)), Vector256.Load(x + j + 8), second);
                }

                sum = Fma.MultiplyAdd(first + second, Vector256.Create(*scales++), sum);
            }

            return Vector256.Sum(sum);
        }

        private readonly float RowScalar(sbyte* codes, float* scales, float* x)
        {
            float total = 0;
            for (int i = 0; i < K; i += Block)
            {
                float sum = 0;
                for (int j = i; j < i + Block; j++)
                {
                    sum += codes[j] * x[j];
                }

                total += sum * *scales++;
            }

            return total;
        }
    }
}
