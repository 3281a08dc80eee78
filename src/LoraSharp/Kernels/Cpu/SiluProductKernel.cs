using System.Runtime.Intrinsics;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>silu(gate) · up in one pass.</summary>
internal static unsafe class SiluProductKernel
{
    // Ranges are of whole vectors: where an element's neighbours are computed must not decide how it is.
    private const long Grain = 1 << 9;

    /// <summary>Two contiguous tensors of one shape and type → a new one.</summary>
    public static Tensor Forward(Tensor gate, Tensor up)
    {
        Tensor y = empty_like(gate);
        void* g = (void*)AtenTensor.DataPointer(gate), u = (void*)AtenTensor.DataPointer(up), output = (void*)AtenTensor.DataPointer(y);
        if (gate.dtype == ScalarType.Float32)
        {
            var work = new Work<Float32Element> { Gate = g, Up = u, Y = output, Count = gate.NumberOfElements };
            ParallelRange.For(0, (gate.NumberOfElements + 15) / 16, Grain, ref work);
        }
        else
        {
            var work = new Work<Bfloat16Element> { Gate = g, Up = u, Y = output, Count = gate.NumberOfElements };
            ParallelRange.For(0, (gate.NumberOfElements + 15) / 16, Grain, ref work);
        }

        return y;
    }

    private struct Work<T> : IRangeWork
        where T : struct, IElement
    {
        public void* Gate;
        public void* Up;
        public void* Y;
        public long Count;

        public readonly void Run(long begin, long end)
        {
            long i = begin * 16;
            end = Math.Min(end * 16, Count);
            for (; i + 16 <= end; i += 16)
            {
                Vector512<float> g = T.Load(Gate, i);
                T.Store(Y, i, g / (Vector512<float>.One + Vector512.Exp(-g)) * T.Load(Up, i));
            }

            for (; i < end; i++)
            {
                float g = T.Get(Gate, i);
                T.Set(Y, i, g / (1 + MathF.Exp(-g)) * T.Get(Up, i));
            }
        }
    }
}
