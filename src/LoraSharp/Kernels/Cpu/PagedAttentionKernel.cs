using System.Runtime.InteropServices;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>
/// Attention of new tokens, of as many sequences as one likes, over keys and values in blocks. A row is one token, and computed by itself,
/// in an order that depends on nothing but its own length: what else is in the batch does not change a bit of it.
/// </summary>
internal static unsafe class PagedAttentionKernel
{
    /// <summary>One new token.</summary>
    /// <param name="Place">Its place among the queries.</param>
    /// <param name="Table">Where its sequence's block table begins in the joined tables.</param>
    /// <param name="Length">Tokens up to and with it.</param>
    public readonly record struct Row(int Place, int Table, int Length);

    /// <summary>Writes the rows' places of <paramref name="y"/> and leaves the others.</summary>
    /// <param name="query">[1, h, n, e], neighbouring values of a head side by side.</param>
    /// <param name="keys">[slots, hk, e], contiguous.</param>
    /// <param name="values">[slots, hk, ev], contiguous.</param>
    /// <param name="y">[n, h, ev], contiguous.</param>
    /// <param name="rows">The tokens.</param>
    /// <param name="tables">The block tables, one after the other.</param>
    /// <param name="blockSize">Tokens a block.</param>
    /// <param name="window">How many of the last tokens are seen; 0 for all.</param>
    /// <param name="settings">Scale and cap.</param>
    /// <param name="sinks">[h], contiguous and of the query's type; null for none.</param>
    public static void Attend(Tensor query, Tensor keys, Tensor values, Tensor y, ReadOnlySpan<Row> rows, ReadOnlySpan<int> tables, int blockSize, int window, DecodeAttention.Settings settings, Tensor? sinks)
    {
        long[] shape = query.shape, keyShape = keys.shape, strides = query.stride();
        long heads = keyShape[1], longest = 1;
        foreach (Row row in rows)
        {
            longest = Math.Max(longest, window > 0 ? Math.Min(window, row.Length) : row.Length);
        }

        long grain = Math.Max(1, (1 << 14) / (longest * keyShape[2]));
        fixed (Row* row = rows)
        fixed (int* table = tables)
        {
            if (query.dtype == ScalarType.Float32)
            {
                Work<Float32Element> work = Create<Float32Element>(row, table);
                ParallelRange.For(0, rows.Length * heads, grain, ref work);
            }
            else
            {
                Work<Bfloat16Element> work = Create<Bfloat16Element>(row, table);
                ParallelRange.For(0, rows.Length * heads, grain, ref work);
            }
        }

        Work<T> Create<T>(Row* row, int* table)
            where T : unmanaged, IElement => new()
            {
                Query = (byte*)AtenTensor.DataPointer(query),
                Keys = (byte*)AtenTensor.DataPointer(keys),
                Values = (byte*)AtenTensor.DataPointer(values),
                Sinks = sinks is null ? null : (byte*)AtenTensor.DataPointer(sinks),
                Y = (byte*)AtenTensor.DataPointer(y),
                Rows = row,
                Tables = table,
                BlockSize = blockSize,
                Window = window,
                Heads = heads,
                Shared = shape[1] / heads,
                Size = shape[3],
                ValueSize = values.shape[2],
                Longest = longest,
                QueryHeadStride = strides[1],
                QueryTokenStride = strides[2],
                Settings = settings,
            };
    }

    private struct Work<T> : IRangeWork
        where T : unmanaged, IElement
    {
        public byte* Query;
        public byte* Keys;
        public byte* Values;
        public byte* Sinks;
        public byte* Y;
        public Row* Rows;
        public int* Tables;
        public int BlockSize;
        public int Window;
        public long Heads;
        public long Shared;
        public long Size;
        public long ValueSize;
        public long Longest;
        public long QueryHeadStride;
        public long QueryTokenStride;
        public DecodeAttention.Settings Settings;

        // An index is a row and one of its key-value heads.
        public readonly void Run(long begin, long end)
        {
            float* scratch = (float*)NativeMemory.Alloc((nuint)(Size + ValueSize + Longest), sizeof(float));
            for (long i = begin; i < end; i++)
            {
                Row row = Rows[i / Heads];
                for (long shared = 0; shared < Shared; shared++)
                {
                    One(row, i % Heads, (i % Heads * Shared) + shared, scratch, scratch + Size, scratch + Size + ValueSize);
                }
            }

            NativeMemory.Free(scratch);
        }

        private readonly void One(Row row, long source, long head, float* q, float* sum, float* scores)
        {
            byte* query = Query + (((head * QueryHeadStride) + (row.Place * QueryTokenStride)) * T.Size);
            for (long i = 0; i < Size; i++)
            {
                q[i] = T.Get(query, i) * Settings.Scale;
            }

            int first = Window > 0 ? Math.Max(0, row.Length - Window) : 0;
            int* table = Tables + row.Table;
            float largest = Sinks is null ? float.NegativeInfinity : T.Get(Sinks, head);
            float sink = largest;
            for (int t = first; t < row.Length; t++)
            {
                float score = HeadVectors<T>.Dot(q, Keys + (((Slot(table, t) * Heads) + source) * Size * T.Size), Size);
                if (Settings.SoftCap != 0)
                {
                    score = MathF.Tanh(score / Settings.SoftCap) * Settings.SoftCap;
                }

                scores[t - first] = score;
                largest = MathF.Max(largest, score);
            }

            float total = HeadVectors<T>.Exponentiate(scores, row.Length - first, largest) + (Sinks is null ? 0 : MathF.Exp(sink - largest));
            new Span<float>(sum, (int)ValueSize).Clear();
            for (int t = first; t < row.Length; t++)
            {
                HeadVectors<T>.Add(sum, scores[t - first], Values + (((Slot(table, t) * Heads) + source) * ValueSize * T.Size), ValueSize);
            }

            float scale = 1 / total;
            byte* y = Y + (((row.Place * Heads * Shared) + head) * ValueSize * T.Size);
            for (long i = 0; i < ValueSize; i++)
            {
                T.Set(y, i, sum[i] * scale);
            }
        }

        private readonly long Slot(int* table, int token) => ((long)table[token / BlockSize] * BlockSize) + (token % BlockSize);
    }
}
