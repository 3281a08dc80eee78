using System.Runtime.Intrinsics;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>x / rms(x) · (w + offset), one pass for the mean and one for the result.</summary>
internal static unsafe class RmsNormKernel
{
    private const long Grain = 1 << 14;

    /// <summary>x [..., d] contiguous and w [d] of one type → a new tensor like x.</summary>
    /// <param name="x">The input.</param>
    /// <param name="weight">The weight.</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <param name="offset">Added to the weight (1 in Gemma).</param>
    /// <param name="roundFirst">Rounds the normalised value to the type before the product with the weight (Llama).</param>
    public static Tensor Forward(Tensor x, Tensor weight, double epsilon, float offset, bool roundFirst)
    {
        Tensor y = empty_like(x);
        long size = weight.NumberOfElements;
        long rows = x.NumberOfElements / size;
        void* input = (void*)AtenTensor.DataPointer(x), w = (void*)AtenTensor.DataPointer(weight), output = (void*)AtenTensor.DataPointer(y);
        if (x.dtype == ScalarType.Float32)
        {
            var work = new Work<Float32Element> { X = input, W = w, Y = output, Size = size, Epsilon = (float)epsilon, Offset = offset };
            ParallelRange.For(0, rows, Math.Max(1, Grain / size), ref work);
        }
        else
        {
            var work = new Work<Bfloat16Element> { X = input, W = w, Y = output, Size = size, Epsilon = (float)epsilon, Offset = offset, RoundFirst = roundFirst };
            ParallelRange.For(0, rows, Math.Max(1, Grain / size), ref work);
        }

        return y;
    }

    private struct Work<T> : IRangeWork
        where T : struct, IElement
    {
        public void* X;
        public void* W;
        public void* Y;
        public long Size;
        public float Epsilon;
        public float Offset;
        public bool RoundFirst;

        public readonly void Run(long begin, long end)
        {
            for (long row = begin; row < end; row++)
            {
                byte* x = (byte*)X + (row * Size * T.Size);
                byte* y = (byte*)Y + (row * Size * T.Size);
                Vector512<float> squares = default;
                long i = 0;
                for (; i + 16 <= Size; i += 16)
                {
                    Vector512<float> v = T.Load(x, i);
                    squares = Vector512.FusedMultiplyAdd(v, v, squares);
                }

                float sum = Vector512.Sum(squares);
                for (; i < Size; i++)
                {
                    float v = T.Get(x, i);
                    sum += v * v;
                }

                float scale = 1 / MathF.Sqrt((sum / Size) + Epsilon);
                Vector512<float> scales = Vector512.Create(scale), offsets = Vector512.Create(Offset);
                i = 0;
                if (!RoundFirst)
                {
                    for (; i + 16 <= Size; i += 16)
                    {
                        T.Store(y, i, T.Load(x, i) * scales * (T.Load(W, i) + offsets));
                    }
                }

                for (; i < Size; i++)
                {
                    float v = T.Get(x, i) * scale;
                    if (RoundFirst)
                    {
                        T.Set(y, i, v);
                        v = T.Get(y, i);
                    }

                    T.Set(y, i, v * (T.Get(W, i) + Offset));
                }
            }
        }
    }
}
