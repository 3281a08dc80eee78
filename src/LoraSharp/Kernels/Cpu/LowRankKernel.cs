using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>
/// y += s·(x·Aᵀ)·Bᵀ for rows that each have factors of their own, at their own ranks: the shrink and expand of Punica
/// (Chen et al. 2023, section 4), both steps of a row by one thread. Factors are float32, sums too; y is rounded once.
/// </summary>
/// <remarks>A row's result does not depend on the other rows, nor on how many there are.</remarks>
internal static unsafe class LowRankKernel
{
    /// <summary>Where the factors of a row lie.</summary>
    /// <param name="A">[r, k], contiguous.</param>
    /// <param name="B">[r, f]: Bᵀ, contiguous.</param>
    /// <param name="Rank">r.</param>
    /// <param name="Scale">s.</param>
    public readonly record struct Factors(nint A, nint B, int Rank, float Scale);

    /// <summary>Neighbouring rows with the same factors.</summary>
    /// <param name="First">The first row.</param>
    /// <param name="Count">How many.</param>
    /// <param name="Factors">Theirs.</param>
    public readonly record struct Segment(long First, long Count, Factors Factors);

    /// <summary>Adds to y in place.</summary>
    /// <param name="x">[..., k], contiguous, float32 or bfloat16.</param>
    /// <param name="y">[..., f], contiguous, of the same type.</param>
    /// <param name="k">Inputs.</param>
    /// <param name="f">Outputs.</param>
    /// <param name="segments">Rows not named stay as they are.</param>
    public static void Add(Tensor x, Tensor y, long k, long f, ReadOnlySpan<Segment> segments)
    {
        long rows = 0;
        int largest = 0;
        foreach (Segment segment in segments)
        {
            rows += segment.Count;
            largest = Math.Max(largest, segment.Factors.Rank);
        }

        fixed (Segment* first = segments)
        {
            if (x.dtype == ScalarType.Float32)
            {
                Run<Single32>(first, segments.Length);
            }
            else
            {
                Run<Brain16>(first, segments.Length);
            }
        }

        void Run<T>(Segment* first, int count)
            where T : unmanaged, IElement
        {
            var work = new Work<T> { X = (byte*)AtenTensor.DataPointer(x), Y = (byte*)AtenTensor.DataPointer(y), Segments = first, Count = count, K = k, F = f, Largest = largest };

            // A thread is worth waking for some ten thousand products.
            ParallelRange.For(0, rows, Math.Max(1, (1 << 14) / Math.Max(1, largest * (k + f))), ref work);
        }
    }

    private struct Work<T> : IRangeWork
        where T : unmanaged, IElement
    {
        public byte* X;
        public byte* Y;
        public Segment* Segments;
        public int Count;
        public long K;
        public long F;
        public int Largest;

        public readonly void Run(long begin, long end)
        {
            float* x = (float*)NativeMemory.AlignedAlloc((nuint)((K + Largest) * sizeof(float)), 64);
            long before = 0;
            for (int s = 0; s < Count && before < end; s++)
            {
                Segment segment = Segments[s];
                long from = Math.Max(begin, before), to = Math.Min(end, before + segment.Count);
                for (long i = from; i < to; i++)
                {
                    long row = segment.First + i - before;
                    One(X + (row * K * T.Size), Y + (row * F * T.Size), segment.Factors, x, x + K);
                }

                before += segment.Count;
            }

            NativeMemory.AlignedFree(x);
        }

        private readonly void One(byte* input, byte* output, Factors factors, float* x, float* hidden)
        {
            long i = 0;
            for (; i + 16 <= K; i += 16)
            {
                T.Load(input, i).Store(x + i);
            }

            for (; i < K; i++)
            {
                x[i] = T.Get(input, i);
            }

            Shrink((float*)factors.A, factors.Rank, factors.Scale, x, hidden);
            Expand((float*)factors.B, factors.Rank, hidden, output);
        }

        private readonly void Shrink(float* a, int rank, float scale, float* x, float* hidden)
        {
            int r = 0;
            for (; r + 4 <= rank; r += 4)
            {
                float* a0 = a + (r * K), a1 = a0 + K, a2 = a1 + K, a3 = a2 + K;
                Vector512<float> s0 = default, s1 = default, s2 = default, s3 = default;
                long i = 0;
                for (; i + 16 <= K; i += 16)
                {
                    Vector512<float> v = Vector512.Load(x + i);
                    s0 = Vector512.FusedMultiplyAdd(Vector512.Load(a0 + i), v, s0);
                    s1 = Vector512.FusedMultiplyAdd(Vector512.Load(a1 + i), v, s1);
                    s2 = Vector512.FusedMultiplyAdd(Vector512.Load(a2 + i), v, s2);
                    s3 = Vector512.FusedMultiplyAdd(Vector512.Load(a3 + i), v, s3);
                }

                float t0 = Vector512.Sum(s0), t1 = Vector512.Sum(s1), t2 = Vector512.Sum(s2), t3 = Vector512.Sum(s3);
                for (; i < K; i++)
                {
                    t0 += a0[i] * x[i];
                    t1 += a1[i] * x[i];
                    t2 += a2[i] * x[i];
                    t3 += a3[i] * x[i];
                }

                hidden[r] = t0 * scale;
                hidden[r + 1] = t1 * scale;
                hidden[r + 2] = t2 * scale;
                hidden[r + 3] = t3 * scale;
            }

            for (; r < rank; r++)
            {
                float* one = a + (r * K);
                Vector512<float> sum = default;
                long i = 0;
                for (; i + 16 <= K; i += 16)
                {
                    sum = Vector512.FusedMultiplyAdd(Vector512.Load(one + i), Vector512.Load(x + i), sum);
                }

                float total = Vector512.Sum(sum);
                for (; i < K; i++)
                {
                    total += one[i] * x[i];
                }

                hidden[r] = total * scale;
            }
        }

        private readonly void Expand(float* b, int rank, float* hidden, byte* y)
        {
            long j = 0;
            for (; j + 64 <= F; j += 64)
            {
                Vector512<float> y0 = default, y1 = default, y2 = default, y3 = default;
                float* row = b + j;
                for (int r = 0; r < rank; r++, row += F)
                {
                    Vector512<float> h = Vector512.Create(hidden[r]);
                    y0 = Vector512.FusedMultiplyAdd(Vector512.Load(row), h, y0);
                    y1 = Vector512.FusedMultiplyAdd(Vector512.Load(row + 16), h, y1);
                    y2 = Vector512.FusedMultiplyAdd(Vector512.Load(row + 32), h, y2);
                    y3 = Vector512.FusedMultiplyAdd(Vector512.Load(row + 48), h, y3);
                }

                T.Store(y, j, T.Load(y, j) + y0);
                T.Store(y, j + 16, T.Load(y, j + 16) + y1);
                T.Store(y, j + 32, T.Load(y, j + 32) + y2);
                T.Store(y, j + 48, T.Load(y, j + 48) + y3);
            }

            for (; j + 16 <= F; j += 16)
            {
                Vector512<float> sum = default;
                for (int r = 0; r < rank; r++)
                {
                    sum = Vector512.FusedMultiplyAdd(Vector512.Load(b + (r * F) + j), Vector512.Create(hidden[r]), sum);
                }

                T.Store(y, j, T.Load(y, j) + sum);
            }

            for (; j < F; j++)
            {
                float sum = 0;
                for (int r = 0; r < rank; r++)
                {
                    sum += b[(r * F) + j] * hidden[r];
                }

                T.Set(y, j, T.Get(y, j) + sum);
            }
        }
    }
}
