using System.Runtime.InteropServices;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>Attention of one new token a row over a cache of keys and values: the whole of it in one pass a head.</summary>
internal static unsafe class DecodeAttention
{
    /// <summary>What is particular to the layer.</summary>
    /// <param name="Scale">Factor on q·k.</param>
    /// <param name="SoftCap">0 for none.</param>
    public readonly record struct Settings(float Scale, float SoftCap);

    /// <summary>query [b, h, 1, e], keys [b, hk, t, e] and values [b, hk, t, ev] with contiguous tokens → [b, h, 1, ev].</summary>
    /// <param name="query">Contiguous.</param>
    /// <param name="keys">A view of the cache.</param>
    /// <param name="values">A view of the cache.</param>
    /// <param name="settings">Scale and cap.</param>
    /// <param name="sinks">[h], contiguous and of the query's type; null for none.</param>
    public static Tensor Attend(Tensor query, Tensor keys, Tensor values, Settings settings, Tensor? sinks)
    {
        long[] shape = query.shape, keyShape = keys.shape, keyStrides = keys.stride(), valueStrides = values.stride();
        long valueSize = values.shape[3];
        Tensor y = empty([shape[0], shape[1], 1, valueSize], query.dtype);
        long heads = shape[0] * shape[1];
        long grain = Math.Max(1, (1 << 15) / Math.Max(1, keyShape[2] * (shape[3] + valueSize)));
        if (query.dtype == ScalarType.Float32)
        {
            Work<Float32Element> work = Create<Float32Element>();
            ParallelRange.For(0, heads, grain, ref work);
        }
        else
        {
            Work<Bfloat16Element> work = Create<Bfloat16Element>();
            ParallelRange.For(0, heads, grain, ref work);
        }

        return y;

        Work<T> Create<T>()
            where T : struct, IElement => new()
            {
                Query = (byte*)AtenTensor.DataPointer(query),
                Keys = (byte*)AtenTensor.DataPointer(keys),
                Values = (byte*)AtenTensor.DataPointer(values),
                Sinks = sinks is null ? null : (byte*)AtenTensor.DataPointer(sinks),
                Y = (byte*)AtenTensor.DataPointer(y),
                Heads = shape[1],
                Shared = shape[1] / keyShape[1],
                Tokens = keyShape[2],
                Size = shape[3],
                ValueSize = valueSize,
                KeyRowStride = keyStrides[0],
                KeyHeadStride = keyStrides[1],
                ValueRowStride = valueStrides[0],
                ValueHeadStride = valueStrides[1],
                Settings = settings,
            };
    }

    private struct Work<T> : IRangeWork
        where T : struct, IElement
    {
        public byte* Query;
        public byte* Keys;
        public byte* Values;
        public byte* Sinks;
        public byte* Y;
        public long Heads;
        public long Shared;
        public long Tokens;
        public long Size;
        public long ValueSize;
        public long KeyRowStride;
        public long KeyHeadStride;
        public long ValueRowStride;
        public long ValueHeadStride;
        public Settings Settings;

        public readonly void Run(long begin, long end)
        {
            // q and the sum in float32, then one score a token.
            float* scratch = (float*)NativeMemory.Alloc((nuint)(Size + ValueSize + Tokens), sizeof(float));
            for (long head = begin; head < end; head++)
            {
                One(head, scratch, scratch + Size, scratch + Size + ValueSize);
            }

            NativeMemory.Free(scratch);
        }

        private readonly void One(long head, float* q, float* sum, float* scores)
        {
            long row = head / Heads, shared = head % Heads / Shared;
            byte* keys = Keys + (((row * KeyRowStride) + (shared * KeyHeadStride)) * T.Size);
            byte* values = Values + (((row * ValueRowStride) + (shared * ValueHeadStride)) * T.Size);
            for (long i = 0; i < Size; i++)
            {
                q[i] = T.Get(Query, (head * Size) + i) * Settings.Scale;
            }

            float largest = Sinks is null ? float.NegativeInfinity : T.Get(Sinks, head % Heads);
            float sink = largest;
            for (long t = 0; t < Tokens; t++)
            {
                float score = HeadVectors<T>.Dot(q, keys + (t * Size * T.Size), Size);
                if (Settings.SoftCap != 0)
                {
                    score = MathF.Tanh(score / Settings.SoftCap) * Settings.SoftCap;
                }

                scores[t] = score;
                largest = MathF.Max(largest, score);
            }

            float total = HeadVectors<T>.Exponentiate(scores, Tokens, largest) + (Sinks is null ? 0 : MathF.Exp(sink - largest));
            new Span<float>(sum, (int)ValueSize).Clear();
            for (long t = 0; t < Tokens; t++)
            {
                HeadVectors<T>.Add(sum, scores[t], values + (t * ValueSize * T.Size), ValueSize);
            }

            float scale = 1 / total;
            for (long i = 0; i < ValueSize; i++)
            {
                T.Set(Y, (head * ValueSize) + i, sum[i] * scale);
            }
        }
    }
}
