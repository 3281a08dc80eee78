using System.Runtime.Intrinsics;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>What can be done with any matrix whose rows can be decoded.</summary>
internal static unsafe class RowMatrix
{
    // Weights a thread should decode at least.
    private const long Grain = 1 << 15;

    /// <summary>Writes all rows into a contiguous float32 or bfloat16 tensor [f, k] on the CPU.</summary>
    public static void Dequantize<T>(T decoder, long rows, long columns, Tensor target)
        where T : unmanaged, IRowDecoder
    {
        var work = new RowDequantization<T>
        {
            Decoder = decoder,
            Columns = (int)columns,
            Target = (void*)AtenTensor.DataPointer(target),
            IsBfloat16 = target.dtype == ScalarType.BFloat16,
        };
        ParallelRange.For(0, rows, Math.Max(1, Grain / columns), ref work);
    }
}

/// <summary>
/// y = x·Wᵀ for a few rows of x with any matrix whose rows can be decoded, piece by piece in the first cache: the
/// product of the types without a kernel of their own, and the reference of those that have one.
/// </summary>
internal unsafe struct RowMultiplier<T> : IFewRowsWork
    where T : unmanaged, IRowDecoder
{
    public T Decoder;
    public int K;
    public int F;

    /// <inheritdoc/>
    public FewRowsOperands Operands { private readonly get; set; }

    /// <inheritdoc/>
    public readonly void Run(long begin, long end)
    {
        float* weights = stackalloc float[RowPiece.Size];
        for (long row = begin; row < end; row++)
        {
            for (int first = 0; first < K; first += RowPiece.Size)
            {
                int count = Math.Min(RowPiece.Size, K - first);
                Decoder.Decode(row, first, count, weights);
                for (int m = 0; m < Operands.M; m++)
                {
                    float sum = Dot(weights, Operands.X + ((long)m * K) + first, count);
                    float* target = Operands.Y + ((long)m * F) + row;
                    *target = first == 0 ? sum : *target + sum;
                }
            }
        }
    }

    // Blocks hold 32 weights at least.
    private static float Dot(float* w, float* x, int count)
    {
        Vector512<float> even = default, odd = default;
        for (int i = 0; i < count; i += 32)
        {
            even = Vector512.FusedMultiplyAdd(Vector512.Load(w + i), Vector512.Load(x + i), even);
            odd = Vector512.FusedMultiplyAdd(Vector512.Load(w + i + 16), Vector512.Load(x + i + 16), odd);
        }

        return Vector512.Sum(even + odd);
    }
}
