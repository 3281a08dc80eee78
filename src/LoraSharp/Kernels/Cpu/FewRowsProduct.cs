using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>
/// y = x·Wᵀ + b for a few rows of x: one token of each sequence of a batch, or a short prompt. W is read from memory once,
/// on all threads; libtorch's product is made for many rows (measured in docs/benchmarks/serving.md).
/// </summary>
/// <remarks>
/// An output is one dot product, added up in an order that depends on nothing but its length: a row's result is the same
/// to the bit whatever other rows there are, and however many.
/// </remarks>
internal static unsafe class FewRowsProduct
{
    // Elements of W a thread should have at least: fewer take less time than waking it.
    private const long Grain = 1 << 15;

    // Rows of W, and of x, that are multiplied at once: sixteen sums stay in registers.
    private const int Tile = 4;

    /// <summary>
    /// Most rows of x that this is taken for. In bfloat16 libtorch has the processor's own dot products, where there are any,
    /// and wins as soon as memory is not what is waited for. In float32 this is faster up to 64 rows too, but a prompt of more
    /// than a few tokens goes through the products that the references' numbers come from: some models make a thousand times
    /// more of a sum's last bit.
    /// </summary>
    /// <param name="dtype">Of x and W.</param>
    public static long MostRows(ScalarType dtype) => !Vector512.IsHardwareAccelerated ? 4 : dtype == ScalarType.Float32 ? 8 : 16;

    /// <summary>x [m, k] contiguous, W [f, k] contiguous, both of one type; bias [f] of that type or null → y [m, f], a new tensor of the given shape.</summary>
    /// <param name="x">Rows.</param>
    /// <param name="weight">W.</param>
    /// <param name="bias">b.</param>
    /// <param name="m">Rows of x.</param>
    /// <param name="k">Inputs.</param>
    /// <param name="f">Outputs.</param>
    /// <param name="shape">Of the result.</param>
    /// <param name="factors">What <see cref="LowRankKernel"/> would add afterwards, with the same result: done here, it wakes no threads of its own.</param>
    public static Tensor Multiply(Tensor x, Tensor weight, Tensor? bias, long m, long k, long f, long[] shape, ReadOnlySpan<LowRankKernel.Segment> factors = default)
    {
        Tensor y = empty(shape, weight.dtype);
        if (m == 0)
        {
            return y;
        }

        byte* input = (byte*)AtenTensor.DataPointer(x);
        if (weight.dtype == ScalarType.Float32)
        {
            Run<Float32Element>(input, (float*)input, weight, bias, y, (m, k, f), factors);
            return y;
        }

        float* ordered = (float*)NativeMemory.AlignedAlloc((nuint)(m * k * sizeof(float)), 64);
        for (long row = 0; row < m; row++)
        {
            LowRankKernel.Arrange<Bfloat16Element, Bfloat16Element>(input + (row * k * Bfloat16Element.Size), ordered + (row * k), k);
        }

        Run<Bfloat16Element>(input, ordered, weight, bias, y, (m, k, f), factors);
        NativeMemory.AlignedFree(ordered);
        return y;
    }

    private static void Run<T>(byte* input, float* x, Tensor weight, Tensor? bias, Tensor y, (long M, long K, long F) sizes, ReadOnlySpan<LowRankKernel.Segment> factors)
        where T : unmanaged, IElement
    {
        var work = new Work<T>
        {
            Input = input,
            X = x,
            W = (byte*)AtenTensor.DataPointer(weight),
            Bias = bias is null ? null : (byte*)AtenTensor.DataPointer(bias),
            Y = (byte*)AtenTensor.DataPointer(y),
            M = sizes.M,
            K = sizes.K,
            F = sizes.F,
        };
        foreach (LowRankKernel.Segment segment in factors)
        {
            work.AdaptedRows += segment.Count;
            work.Largest = Math.Max(work.Largest, segment.Factors.Rank);
        }

        fixed (LowRankKernel.Segment* first = factors)
        {
            work.Segments = first;
            work.SegmentCount = factors.Length;
            if (work.AdaptedRows > 0)
            {
                work.Hidden = (float*)NativeMemory.AlignedAlloc((nuint)(work.AdaptedRows * work.Largest * sizeof(float)), 64);
                work.IsReady = (int*)NativeMemory.AllocZeroed((nuint)work.AdaptedRows, sizeof(int));
            }

            ParallelRange.For(0, sizes.F, Math.Max(Tile, Grain / Math.Max(1, sizes.K)), ref work);
            NativeMemory.AlignedFree(work.Hidden);
            NativeMemory.Free(work.IsReady);
        }
    }

    private struct Work<T> : IRangeWork
        where T : unmanaged, IElement
    {
        public byte* Input;
        public float* X;
        public byte* W;
        public byte* Bias;
        public byte* Y;
        public long M;
        public long K;
        public long F;
        public LowRankKernel.Segment* Segments;
        public int SegmentCount;
        public long AdaptedRows;
        public int Largest;
        public float* Hidden;
        public int* IsReady;

        public readonly void Run(long begin, long end)
        {
            if (AdaptedRows == 0)
            {
                Products(begin, end);
                return;
            }

            // Each thread makes the hidden values of its share of the rows before its product. Behind the product those of
            // the others are there, mostly; what is not is made once more, to the same bits, for nobody waits for anybody.
            float* scratch = (float*)NativeMemory.AlignedAlloc((nuint)((K + Largest) * sizeof(float)), 64);
            Shrink(begin * AdaptedRows / F, end * AdaptedRows / F, scratch);
            Products(begin, end);
            Expand(begin, end, scratch);
            NativeMemory.AlignedFree(scratch);
        }

        private readonly void Shrink(long from, long to, float* scratch)
        {
            long i = 0;
            for (int s = 0; s < SegmentCount && i < to; s++)
            {
                LowRankKernel.Segment segment = Segments[s];
                for (long row = segment.First; row < segment.First + segment.Count; row++, i++)
                {
                    if (i >= from && i < to)
                    {
                        LowRankKernel.Shrink<T>(segment.Factors, Input + (row * K * T.Size), K, Hidden + (i * Largest), scratch);
                        Volatile.Write(ref IsReady[i], 1);
                    }
                }
            }
        }

        private readonly void Expand(long begin, long end, float* scratch)
        {
            long i = 0;
            for (int s = 0; s < SegmentCount; s++)
            {
                LowRankKernel.Segment segment = Segments[s];
                for (long row = segment.First; row < segment.First + segment.Count; row++, i++)
                {
                    float* hidden = Hidden + (i * Largest);
                    if (Volatile.Read(ref IsReady[i]) == 0)
                    {
                        hidden = scratch + K;
                        LowRankKernel.Shrink<T>(segment.Factors, Input + (row * K * T.Size), K, hidden, scratch);
                    }

                    LowRankKernel.Expand<T>(segment.Factors, hidden, Y + (row * F * T.Size), begin, end, F);
                }
            }
        }

        private readonly void Products(long begin, long end)
        {
            float* sums = stackalloc float[Tile * Tile];
            for (long f = begin; f < end; f += Tile)
            {
                int rows = (int)Math.Min(Tile, end - f);
                for (long m = 0; m < M; m += Tile)
                {
                    int count = (int)Math.Min(Tile, M - m);
                    if (count == 1)
                    {
                        One(f, rows, X + (m * K), sums);
                    }
                    else
                    {
                        Several(f, rows, m, count, sums);
                    }

                    Put(f, rows, m, count, sums);
                }
            }
        }

        // Where there are fewer than four rows, the last one is multiplied again and its sums are not used.
        private readonly void Several(long f, int rows, long m, int count, float* sums)
        {
            long k = K, s = k * T.Size;
            byte* w0 = W + (f * s), w1 = w0 + (Math.Min(1, rows - 1) * s), w2 = w0 + (Math.Min(2, rows - 1) * s), w3 = w0 + ((rows - 1) * s);
            float* x0 = X + (m * k), x1 = x0 + k, x2 = x0 + (Math.Min(2, count - 1) * k), x3 = x0 + ((count - 1) * k);
            Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default, b2 = default, b3 = default;
            Vector512<float> c0 = default, c1 = default, c2 = default, c3 = default, d0 = default, d1 = default, d2 = default, d3 = default;

            // While these rows of W come from memory and then from the cache, the next ones are fetched: the first two
            // passes over them fetch half each, a single one all. (Fetching what is not there does nothing.)
            int share = M <= Tile ? 4 : m < 2 * Tile ? 2 : 0;
            byte* ahead = w0 + ((m > 0 ? 6 : 4) * s);
            long i = 0;
            for (; i + 32 <= k; i += 32)
            {
                for (int p = 0; p < share * 32 * T.Size; p += 64)
                {
                    Fetch(ahead + (share * i * T.Size) + p);
                }

                Vector512<float> p0 = Vector512.Load(x0 + i), p1 = Vector512.Load(x1 + i), p2 = Vector512.Load(x2 + i), p3 = Vector512.Load(x3 + i);
                Vector512<float> q0 = Vector512.Load(x0 + i + 16), q1 = Vector512.Load(x1 + i + 16), q2 = Vector512.Load(x2 + i + 16), q3 = Vector512.Load(x3 + i + 16);
                T.LoadBoth(w0, i, out Vector512<float> low, out Vector512<float> high);
                Add(low, p0, p1, p2, p3, ref a0, ref a1, ref a2, ref a3);
                Add(high, q0, q1, q2, q3, ref a0, ref a1, ref a2, ref a3);
                T.LoadBoth(w1, i, out low, out high);
                Add(low, p0, p1, p2, p3, ref b0, ref b1, ref b2, ref b3);
                Add(high, q0, q1, q2, q3, ref b0, ref b1, ref b2, ref b3);
                T.LoadBoth(w2, i, out low, out high);
                Add(low, p0, p1, p2, p3, ref c0, ref c1, ref c2, ref c3);
                Add(high, q0, q1, q2, q3, ref c0, ref c1, ref c2, ref c3);
                T.LoadBoth(w3, i, out low, out high);
                Add(low, p0, p1, p2, p3, ref d0, ref d1, ref d2, ref d3);
                Add(high, q0, q1, q2, q3, ref d0, ref d1, ref d2, ref d3);
            }

            Sum(a0, b0, c0, d0).Store(sums);
            Sum(a1, b1, c1, d1).Store(sums + Tile);
            Sum(a2, b2, c2, d2).Store(sums + (2 * Tile));
            Sum(a3, b3, c3, d3).Store(sums + (3 * Tile));
            for (int j = 0; j < count && i < k; j++)
            {
                Rest(i, w0, w1, w2, w3, x0 + (j * k), sums + (j * Tile));
            }
        }

        private readonly void One(long f, int rows, float* x, float* sums)
        {
            long k = K, s = k * T.Size;
            byte* w0 = W + (f * s), w1 = w0 + (Math.Min(1, rows - 1) * s), w2 = w0 + (Math.Min(2, rows - 1) * s), w3 = w0 + ((rows - 1) * s);
            Vector512<float> a = default, b = default, c = default, d = default;
            long i = 0;
            for (; i + 32 <= k; i += 32)
            {
                Vector512<float> p = Vector512.Load(x + i), q = Vector512.Load(x + i + 16);
                T.LoadBoth(w0, i, out Vector512<float> low, out Vector512<float> high);
                a = Vector512.FusedMultiplyAdd(high, q, Vector512.FusedMultiplyAdd(low, p, a));
                T.LoadBoth(w1, i, out low, out high);
                b = Vector512.FusedMultiplyAdd(high, q, Vector512.FusedMultiplyAdd(low, p, b));
                T.LoadBoth(w2, i, out low, out high);
                c = Vector512.FusedMultiplyAdd(high, q, Vector512.FusedMultiplyAdd(low, p, c));
                T.LoadBoth(w3, i, out low, out high);
                d = Vector512.FusedMultiplyAdd(high, q, Vector512.FusedMultiplyAdd(low, p, d));
            }

            Sum(a, b, c, d).Store(sums);
            Rest(i, w0, w1, w2, w3, x, sums);
        }

        private readonly void Rest(long i, byte* w0, byte* w1, byte* w2, byte* w3, float* x, float* sums)
        {
            for (; i < K; i++)
            {
                sums[0] += T.Get(w0, i) * x[i];
                sums[1] += T.Get(w1, i) * x[i];
                sums[2] += T.Get(w2, i) * x[i];
                sums[3] += T.Get(w3, i) * x[i];
            }
        }

        private readonly void Put(long f, int rows, long m, int count, float* sums)
        {
            if (rows == Tile)
            {
                Vector128<float> offset = Bias is null ? default : Vector128.Create(T.Get(Bias, f), T.Get(Bias, f + 1), T.Get(Bias, f + 2), T.Get(Bias, f + 3));
                for (int j = 0; j < count; j++)
                {
                    T.StoreFour(Y, ((m + j) * F) + f, Vector128.Load(sums + (j * Tile)) + offset);
                }

                return;
            }

            for (int j = 0; j < count; j++)
            {
                for (int r = 0; r < rows; r++)
                {
                    T.Set(Y, ((m + j) * F) + f + r, sums[(j * Tile) + r] + (Bias is null ? 0 : T.Get(Bias, f + r)));
                }
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static void Add(Vector512<float> w, Vector512<float> x0, Vector512<float> x1, Vector512<float> x2, Vector512<float> x3, ref Vector512<float> a, ref Vector512<float> b, ref Vector512<float> c, ref Vector512<float> d)
        {
            a = Vector512.FusedMultiplyAdd(w, x0, a);
            b = Vector512.FusedMultiplyAdd(w, x1, b);
            c = Vector512.FusedMultiplyAdd(w, x2, c);
            d = Vector512.FusedMultiplyAdd(w, x3, d);
        }

        // The sums of four vectors.
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static Vector128<float> Sum(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d)
        {
            Vector128<float> a4 = Quarter(a), b4 = Quarter(b), c4 = Quarter(c), d4 = Quarter(d);
            return Sse3.IsSupported
                ? Sse3.HorizontalAdd(Sse3.HorizontalAdd(a4, b4), Sse3.HorizontalAdd(c4, d4))
                : Vector128.Create(Pairs(a4), Pairs(b4), Pairs(c4), Pairs(d4));
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static Vector128<float> Quarter(Vector512<float> v)
        {
            Vector256<float> half = v.GetLower() + v.GetUpper();
            return half.GetLower() + half.GetUpper();
        }

        // In the order of the horizontal additions.
        private static float Pairs(Vector128<float> v) => (v[0] + v[1]) + (v[2] + v[3]);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static void Fetch(byte* place)
        {
            if (Sse.IsSupported)
            {
                Sse.Prefetch0(place);
            }
        }
    }
}
