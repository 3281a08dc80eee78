using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>
/// y = x·Wᵀ + b for a few rows of x: reads W once at the speed of memory, on all threads. libtorch's matrix product is
/// made for many rows and takes one thread or a detour over packed copies for one (measured in docs/benchmarks).
/// </summary>
internal static unsafe class MatrixVector
{
    /// <summary>Most rows of x that this is worth it for.</summary>
    public const long MostRows = 4;

    // Elements of W a thread should have at least: fewer take less time than waking it.
    private const long Grain = 1 << 15;

    /// <summary>x [m, k] contiguous, W [f, k] contiguous, both of one type; bias [f] of that type or null → y [m, f], a new tensor of the given shape.</summary>
    public static Tensor Multiply(Tensor x, Tensor weight, Tensor? bias, long m, long k, long f, long[] shape)
    {
        Tensor y = empty(shape, weight.dtype);
        void* input = (void*)AtenTensor.DataPointer(x);
        void* matrix = (void*)AtenTensor.DataPointer(weight);
        void* offset = bias is null ? null : (void*)AtenTensor.DataPointer(bias);
        void* output = (void*)AtenTensor.DataPointer(y);
        long grain = Math.Max(4, Grain / Math.Max(1, k));
        if (weight.dtype == ScalarType.Float32)
        {
            var work = new SingleWork { X = (float*)input, W = (float*)matrix, Bias = (float*)offset, Y = (float*)output, M = m, K = k, F = f };
            ParallelRange.For(0, f, grain, ref work);
        }
        else
        {
            // Neighbouring weights share 32 bits: the even ones are the lower half, the odd ones the upper. x is put in that order.
            float[] ordered = new float[m * k];
            fixed (float* pairs = ordered)
            {
                for (long row = 0; row < m; row++)
                {
                    Order((ushort*)input + (row * k), pairs + (row * k), k);
                }

                var work = new BrainWork { X = pairs, W = (ushort*)matrix, Bias = (ushort*)offset, Y = (ushort*)output, M = m, K = k, F = f };
                ParallelRange.For(0, f, grain, ref work);
            }
        }

        return y;
    }

    private static void Order(ushort* x, float* ordered, long k)
    {
        long i = 0;
        for (; i + 32 <= k; i += 32)
        {
            for (int j = 0; j < 16; j++)
            {
                ordered[i + j] = Brain16.Get(x, i + (2 * j));
                ordered[i + 16 + j] = Brain16.Get(x, i + (2 * j) + 1);
            }
        }

        for (; i < k; i++)
        {
            ordered[i] = Brain16.Get(x, i);
        }
    }

    private struct SingleWork : IRangeWork
    {
        public float* X;
        public float* W;
        public float* Bias;
        public float* Y;
        public long M;
        public long K;
        public long F;

        public readonly void Run(long begin, long end)
        {
            long row = begin;
            for (; row + 4 <= end; row += 4)
            {
                for (long m = 0; m < M; m++)
                {
                    Four(row, X + (m * K), Y + (m * F) + row);
                }
            }

            for (; row < end; row++)
            {
                for (long m = 0; m < M; m++)
                {
                    float* w = W + (row * K);
                    float* x = X + (m * K);
                    Vector512<float> sum = Vector512<float>.Zero;
                    long i = 0;
                    for (; i + 16 <= K; i += 16)
                    {
                        sum = Vector512.FusedMultiplyAdd(Vector512.Load(w + i), Vector512.Load(x + i), sum);
                    }

                    float total = Vector512.Sum(sum);
                    for (; i < K; i++)
                    {
                        total += w[i] * x[i];
                    }

                    Y[(m * F) + row] = total + (Bias is null ? 0 : Bias[row]);
                }
            }
        }

        // Four rows of W at once: x is loaded once for them, and eight sums hide the latency of the additions.
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private readonly void Four(long row, float* x, float* y)
        {
            float* a = W + (row * K), b = a + K, c = b + K, d = c + K;
            Vector512<float> a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
            long i = 0;
            for (; i + 32 <= K; i += 32)
            {
                Vector512<float> x0 = Vector512.Load(x + i), x1 = Vector512.Load(x + i + 16);
                a0 = Vector512.FusedMultiplyAdd(Vector512.Load(a + i), x0, a0);
                a1 = Vector512.FusedMultiplyAdd(Vector512.Load(a + i + 16), x1, a1);
                b0 = Vector512.FusedMultiplyAdd(Vector512.Load(b + i), x0, b0);
                b1 = Vector512.FusedMultiplyAdd(Vector512.Load(b + i + 16), x1, b1);
                c0 = Vector512.FusedMultiplyAdd(Vector512.Load(c + i), x0, c0);
                c1 = Vector512.FusedMultiplyAdd(Vector512.Load(c + i + 16), x1, c1);
                d0 = Vector512.FusedMultiplyAdd(Vector512.Load(d + i), x0, d0);
                d1 = Vector512.FusedMultiplyAdd(Vector512.Load(d + i + 16), x1, d1);
            }

            float ya = Vector512.Sum(a0 + a1), yb = Vector512.Sum(b0 + b1), yc = Vector512.Sum(c0 + c1), yd = Vector512.Sum(d0 + d1);
            for (; i < K; i++)
            {
                ya += a[i] * x[i];
                yb += b[i] * x[i];
                yc += c[i] * x[i];
                yd += d[i] * x[i];
            }

            y[0] = ya + (Bias is null ? 0 : Bias[row]);
            y[1] = yb + (Bias is null ? 0 : Bias[row + 1]);
            y[2] = yc + (Bias is null ? 0 : Bias[row + 2]);
            y[3] = yd + (Bias is null ? 0 : Bias[row + 3]);
        }
    }

    private struct BrainWork : IRangeWork
    {
        public float* X;
        public ushort* W;
        public ushort* Bias;
        public ushort* Y;
        public long M;
        public long K;
        public long F;

        public readonly void Run(long begin, long end)
        {
            long row = begin;
            for (; row + 4 <= end; row += 4)
            {
                for (long m = 0; m < M; m++)
                {
                    Four(row, X + (m * K), m * F);
                }
            }

            for (; row < end; row++)
            {
                for (long m = 0; m < M; m++)
                {
                    ushort* w = W + (row * K);
                    float* x = X + (m * K);
                    Vector512<float> even = default, odd = default;
                    long i = 0;
                    for (; i + 32 <= K; i += 32)
                    {
                        Both(w + i, Vector512.Load(x + i), Vector512.Load(x + i + 16), ref even, ref odd);
                    }

                    float total = Vector512.Sum(even + odd);
                    for (; i < K; i++)
                    {
                        total += Brain16.Get(w, i) * x[i];
                    }

                    Put(row, m * F, total);
                }
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private readonly void Four(long row, float* x, long at)
        {
            ushort* a = W + (row * K), b = a + K, c = b + K, d = c + K;
            Vector512<float> a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
            long i = 0;
            for (; i + 32 <= K; i += 32)
            {
                Vector512<float> even = Vector512.Load(x + i), odd = Vector512.Load(x + i + 16);
                Both(a + i, even, odd, ref a0, ref a1);
                Both(b + i, even, odd, ref b0, ref b1);
                Both(c + i, even, odd, ref c0, ref c1);
                Both(d + i, even, odd, ref d0, ref d1);
            }

            float ya = Vector512.Sum(a0 + a1), yb = Vector512.Sum(b0 + b1), yc = Vector512.Sum(c0 + c1), yd = Vector512.Sum(d0 + d1);
            for (; i < K; i++)
            {
                ya += Brain16.Get(a, i) * x[i];
                yb += Brain16.Get(b, i) * x[i];
                yc += Brain16.Get(c, i) * x[i];
                yd += Brain16.Get(d, i) * x[i];
            }

            Put(row, at, ya);
            Put(row + 1, at, yb);
            Put(row + 2, at, yc);
            Put(row + 3, at, yd);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static void Both(ushort* w, Vector512<float> even, Vector512<float> odd, ref Vector512<float> evenSum, ref Vector512<float> oddSum)
        {
            Vector512<uint> pairs = Vector512.Load((uint*)w);
            evenSum = Vector512.FusedMultiplyAdd((pairs << 16).AsSingle(), even, evenSum);
            oddSum = Vector512.FusedMultiplyAdd((pairs & Vector512.Create(0xFFFF0000u)).AsSingle(), odd, oddSum);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private readonly void Put(long row, long at, float total) => Brain16.Set(Y, at + row, total + (Bias is null ? 0 : Brain16.Get(Bias, row)));
    }
}
