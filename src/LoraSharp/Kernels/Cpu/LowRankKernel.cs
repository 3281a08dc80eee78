using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>
/// y += s·(x·Aᵀ)·Bᵀ for rows that each have factors of their own, at their own ranks: the shrink and expand of Punica
/// (Chen et al. 2023, section 4), both steps of a row by one thread. Sums are float32; y is rounded once.
/// </summary>
/// <remarks>A row's result does not depend on the other rows, nor on how many there are.</remarks>
internal static unsafe class LowRankKernel
{
    // Bytes of a factor that are fetched ahead: more would push out what is still needed.
    private const long MostFetched = 1 << 17;

    /// <summary>Where the factors of a row lie.</summary>
    /// <param name="A">[r, k], contiguous.</param>
    /// <param name="B">[r, f]: Bᵀ, contiguous.</param>
    /// <param name="Rank">r.</param>
    /// <param name="Scale">s.</param>
    /// <param name="IsBfloat16">Both are bfloat16, which halves what is read; otherwise float32.</param>
    public readonly record struct Factors(nint A, nint B, int Rank, float Scale, bool IsBfloat16 = false)
    {
        /// <summary>Bytes of an element.</summary>
        public long Size => IsBfloat16 ? 2 : 4;
    }

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
                Run<Float32Element>(first, segments.Length);
            }
            else
            {
                Run<Bfloat16Element>(first, segments.Length);
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

    /// <summary>hidden [r] = s·A·x.</summary>
    /// <param name="factors">A.</param>
    /// <param name="input">x [k].</param>
    /// <param name="k">Its width.</param>
    /// <param name="hidden">Room for r.</param>
    /// <param name="scratch">Room for x in float32.</param>
    public static void Shrink<T>(Factors factors, byte* input, long k, float* hidden, float* scratch)
        where T : unmanaged, IElement
    {
        if (factors.IsBfloat16)
        {
            Arrange<T, Bfloat16Element>(input, scratch, k);
            Shrink<Bfloat16Element>(factors, scratch, k, hidden);
        }
        else
        {
            Arrange<T, Float32Element>(input, scratch, k);
            Shrink<Float32Element>(factors, scratch, k, hidden);
        }
    }

    /// <summary>y [f] += Bᵀ·hidden, from <paramref name="begin"/> up to <paramref name="end"/>; rounded once.</summary>
    public static void Expand<T>(Factors factors, float* hidden, byte* y, long begin, long end, long f)
        where T : unmanaged, IElement
    {
        if (factors.IsBfloat16)
        {
            Expand<T, Bfloat16Element>(factors, hidden, y, begin, end, f);
        }
        else
        {
            Expand<T, Float32Element>(factors, hidden, y, begin, end, f);
        }
    }

    // Asks for what is read next.
    private static void Fetch(nint place, long bytes)
    {
        if (!Sse.IsSupported)
        {
            return;
        }

        byte* end = (byte*)place + Math.Min(bytes, MostFetched);
        for (byte* line = (byte*)place; line < end; line += 64)
        {
            Sse.Prefetch0(line);
        }
    }

    /// <summary>x [k] in float32, in the order in which the type of what it is multiplied with comes apart; what does not fill 32 stays in its own.</summary>
    /// <typeparam name="T">Of x.</typeparam>
    /// <typeparam name="TFactor">Of what it is multiplied with.</typeparam>
    public static void Arrange<T, TFactor>(byte* x, float* arranged, long k)
        where T : unmanaged, IElement
        where TFactor : unmanaged, IElement
    {
        long i = 0;
        for (; i + 32 <= k; i += 32)
        {
            Vector512<float> first, second;
            if (typeof(T) == typeof(TFactor))
            {
                T.LoadBoth(x, i, out first, out second);
            }
            else if (typeof(TFactor) == typeof(Float32Element))
            {
                (first, second) = (T.Load(x, i), T.Load(x, i + 16));
            }
            else
            {
                for (int j = 0; j < 16; j++)
                {
                    arranged[i + j] = T.Get(x, i + (2 * j));
                    arranged[i + 16 + j] = T.Get(x, i + (2 * j) + 1);
                }

                continue;
            }

            first.Store(arranged + i);
            second.Store(arranged + i + 16);
        }

        for (; i < k; i++)
        {
            arranged[i] = T.Get(x, i);
        }
    }

    private static void Shrink<TFactor>(Factors factors, float* x, long k, float* hidden)
        where TFactor : unmanaged, IElement
    {
        byte* a = (byte*)factors.A;
        long row = k * TFactor.Size;
        for (int r = 0; r < factors.Rank; r += 4)
        {
            // Where fewer than four are left, the last one is multiplied again.
            int last = factors.Rank - 1 - r;
            byte* a0 = a + (r * row), a1 = a0 + (Math.Min(1, last) * row), a2 = a0 + (Math.Min(2, last) * row), a3 = a0 + (Math.Min(3, last) * row);
            Vector512<float> s0 = default, s1 = default, s2 = default, s3 = default, t0 = default, t1 = default, t2 = default, t3 = default;
            long i = 0;
            for (; i + 32 <= k; i += 32)
            {
                Vector512<float> p = Vector512.Load(x + i), q = Vector512.Load(x + i + 16);
                TFactor.LoadBoth(a0, i, out Vector512<float> low, out Vector512<float> high);
                s0 = Vector512.FusedMultiplyAdd(low, p, s0);
                t0 = Vector512.FusedMultiplyAdd(high, q, t0);
                TFactor.LoadBoth(a1, i, out low, out high);
                s1 = Vector512.FusedMultiplyAdd(low, p, s1);
                t1 = Vector512.FusedMultiplyAdd(high, q, t1);
                TFactor.LoadBoth(a2, i, out low, out high);
                s2 = Vector512.FusedMultiplyAdd(low, p, s2);
                t2 = Vector512.FusedMultiplyAdd(high, q, t2);
                TFactor.LoadBoth(a3, i, out low, out high);
                s3 = Vector512.FusedMultiplyAdd(low, p, s3);
                t3 = Vector512.FusedMultiplyAdd(high, q, t3);
            }

            float h0 = Vector512.Sum(s0 + t0), h1 = Vector512.Sum(s1 + t1), h2 = Vector512.Sum(s2 + t2), h3 = Vector512.Sum(s3 + t3);
            for (; i < k; i++)
            {
                h0 += TFactor.Get(a0, i) * x[i];
                h1 += TFactor.Get(a1, i) * x[i];
                h2 += TFactor.Get(a2, i) * x[i];
                h3 += TFactor.Get(a3, i) * x[i];
            }

            // From the last to the first: of equal places the right one is written last.
            hidden[r + Math.Min(3, last)] = h3 * factors.Scale;
            hidden[r + Math.Min(2, last)] = h2 * factors.Scale;
            hidden[r + Math.Min(1, last)] = h1 * factors.Scale;
            hidden[r] = h0 * factors.Scale;
        }
    }

    // An output is added up in the order of the ranks, fused, whichever of the loops it falls into.
    private static void Expand<T, TFactor>(Factors factors, float* hidden, byte* y, long begin, long end, long f)
        where T : unmanaged, IElement
        where TFactor : unmanaged, IElement
    {
        byte* b = (byte*)factors.B;
        int rank = factors.Rank;
        bool alike = typeof(T) == typeof(TFactor);
        long j = begin;
        for (; j + 64 <= end; j += 64)
        {
            Vector512<float> s0 = default, s1 = default, s2 = default, s3 = default;
            long at = j;
            for (int r = 0; r < rank; r++, at += f)
            {
                Vector512<float> h = Vector512.Create(hidden[r]);
                Halves<TFactor>(b, at, alike, out Vector512<float> b0, out Vector512<float> b1);
                Halves<TFactor>(b, at + 32, alike, out Vector512<float> b2, out Vector512<float> b3);
                s0 = Vector512.FusedMultiplyAdd(b0, h, s0);
                s1 = Vector512.FusedMultiplyAdd(b1, h, s1);
                s2 = Vector512.FusedMultiplyAdd(b2, h, s2);
                s3 = Vector512.FusedMultiplyAdd(b3, h, s3);
            }

            AddHalves<T>(y, j, alike, s0, s1);
            AddHalves<T>(y, j + 32, alike, s2, s3);
        }

        for (; j + 16 <= end; j += 16)
        {
            Vector512<float> sum = default;
            for (int r = 0; r < rank; r++)
            {
                sum = Vector512.FusedMultiplyAdd(TFactor.Load(b, (r * f) + j), Vector512.Create(hidden[r]), sum);
            }

            T.Store(y, j, T.Load(y, j) + sum);
        }

        for (; j < end; j++)
        {
            float sum = 0;
            for (int r = 0; r < rank; r++)
            {
                sum = MathF.FusedMultiplyAdd(TFactor.Get(b, (r * f) + j), hidden[r], sum);
            }

            T.Set(y, j, T.Get(y, j) + sum);
        }
    }

    // 32 elements the way their type comes apart fastest, where what they are added to comes apart the same way.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Halves<TFactor>(byte* data, long i, bool alike, out Vector512<float> first, out Vector512<float> second)
        where TFactor : unmanaged, IElement
    {
        if (alike)
        {
            TFactor.LoadBoth(data, i, out first, out second);
        }
        else
        {
            (first, second) = (TFactor.Load(data, i), TFactor.Load(data, i + 16));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void AddHalves<T>(byte* y, long i, bool alike, Vector512<float> first, Vector512<float> second)
        where T : unmanaged, IElement
    {
        if (alike)
        {
            T.LoadBoth(y, i, out Vector512<float> y0, out Vector512<float> y1);
            T.StoreBoth(y, i, y0 + first, y1 + second);
        }
        else
        {
            T.Store(y, i, T.Load(y, i) + first);
            T.Store(y, i + 16, T.Load(y, i + 16) + second);
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
                    Factors next = i + 1 == to && s + 1 < Count && to < end ? Segments[s + 1].Factors : default;
                    One(X + (row * K * T.Size), Y + (row * F * T.Size), segment.Factors, next, x, x + K);
                }

                before += segment.Count;
            }

            NativeMemory.AlignedFree(x);
        }

        // The factors are what is waited for: each is fetched while the one before it is multiplied.
        private readonly void One(byte* input, byte* output, Factors factors, Factors next, float* x, float* hidden)
        {
            Fetch(factors.B, factors.Rank * F * factors.Size);
            Shrink<T>(factors, input, K, hidden, x);
            Fetch(next.A, next.Rank * K * next.Size);
            Expand<T>(factors, hidden, output, 0, F, F);
        }
    }
}
