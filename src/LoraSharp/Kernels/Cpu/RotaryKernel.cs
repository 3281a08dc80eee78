using System.Runtime.Intrinsics;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>Rotary positions in one pass over x, whatever its strides.</summary>
internal static unsafe class RotaryKernel
{
    private const long Grain = 1 << 14;

    /// <summary>x [b, h, s, e] with the last stride 1; cos and sin [b or 1, 1, s, r/2] of its type → a new contiguous tensor.</summary>
    public static Tensor Apply(Tensor x, Tensor cos, Tensor sin, int rotated, bool interleaved)
    {
        long[] shape = x.shape, strides = x.stride();
        Tensor y = empty(shape, x.dtype);
        long heads = shape[0] * shape[1];
        long grain = Math.Max(1, Grain / Math.Max(1, shape[2] * shape[3]));
        if (x.dtype == ScalarType.Float32)
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
                X = (byte*)AtenTensor.DataPointer(x),
                Y = (byte*)AtenTensor.DataPointer(y),
                Cos = (byte*)AtenTensor.DataPointer(cos),
                Sin = (byte*)AtenTensor.DataPointer(sin),
                Heads = shape[1],
                Tokens = shape[2],
                Size = shape[3],
                Half = rotated / 2,
                RowStride = strides[0],
                HeadStride = strides[1],
                TokenStride = strides[2],
                AngleRowStride = cos.shape[0] == 1 ? 0 : shape[2] * rotated / 2,
                Interleaved = interleaved,
            };
    }

    private struct Work<T> : IRangeWork
        where T : struct, IElement
    {
        public byte* X;
        public byte* Y;
        public byte* Cos;
        public byte* Sin;
        public long Heads;
        public long Tokens;
        public long Size;
        public long Half;
        public long RowStride;
        public long HeadStride;
        public long TokenStride;
        public long AngleRowStride;
        public bool Interleaved;

        public readonly void Run(long begin, long end)
        {
            for (long head = begin; head < end; head++)
            {
                long row = head / Heads;
                for (long token = 0; token < Tokens; token++)
                {
                    byte* x = X + (((row * RowStride) + (head % Heads * HeadStride) + (token * TokenStride)) * T.Size);
                    byte* y = Y + (((head * Tokens) + token) * Size * T.Size);
                    long angle = ((row * AngleRowStride) + (token * Half)) * T.Size;
                    Turn(x, y, Cos + angle, Sin + angle);
                    for (long i = 2 * Half; i < Size; i++)
                    {
                        T.Set(y, i, T.Get(x, i));
                    }
                }
            }
        }

        private readonly void Turn(byte* x, byte* y, byte* cos, byte* sin)
        {
            long i = 0;
            if (Interleaved)
            {
                for (; i < Half; i++)
                {
                    float first = T.Get(x, 2 * i), second = T.Get(x, (2 * i) + 1), c = T.Get(cos, i), s = T.Get(sin, i);
                    T.Set(y, 2 * i, (first * c) - (second * s));
                    T.Set(y, (2 * i) + 1, (second * c) + (first * s));
                }

                return;
            }

            for (; i + 16 <= Half; i += 16)
            {
                Vector512<float> first = T.Load(x, i), second = T.Load(x, i + Half), c = T.Load(cos, i), s = T.Load(sin, i);
                T.Store(y, i, (first * c) - (second * s));
                T.Store(y, i + Half, (second * c) + (first * s));
            }

            for (; i < Half; i++)
            {
                float first = T.Get(x, i), second = T.Get(x, i + Half), c = T.Get(cos, i), s = T.Get(sin, i);
                T.Set(y, i, (first * c) - (second * s));
                T.Set(y, i + Half, (second * c) + (first * s));
            }
        }
    }
}
