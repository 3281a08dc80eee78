using System.Buffers;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>What a product of a few rows reads and writes besides the matrix: x [m, k] and y [m, f], float32.</summary>
internal unsafe struct FewRowsOperands
{
    public float* X;
    public float* Y;
    public int M;
}

/// <summary>A product of a few rows of float32 x with a matrix, by rows of the matrix.</summary>
internal interface IFewRowsWork : IRangeWork
{
    /// <summary>Set before it runs.</summary>
    FewRowsOperands Operands { set; }
}

/// <summary>Hands tensors of either compute type to kernels that know float32 only.</summary>
internal static unsafe class FewRows
{
    // Weights a thread should have at least: about 5 µs.
    private const long Grain = 100_000;

    /// <summary>
    /// Rows of x up to which a kernel beats dequantising W and a dense product, which processors with AVX512-BF16 do fast
    /// in bfloat16 only (docs/benchmarks/nf4.md); 0 for a type the kernels do not know.
    /// </summary>
    public static long Most(ScalarType dtype) => dtype switch
    {
        ScalarType.BFloat16 => 8,
        ScalarType.Float32 => 16,
        _ => 0,
    };

    /// <summary>Multiplies.</summary>
    /// <param name="x">[..., k] contiguous, float32 or bfloat16, on the CPU.</param>
    /// <param name="k">Columns of the matrix.</param>
    /// <param name="f">Rows of the matrix.</param>
    /// <param name="shape">Of the result.</param>
    /// <param name="work">The kernel.</param>
    public static Tensor Multiply<T>(Tensor x, long k, long f, long[] shape, ref T work)
        where T : unmanaged, IFewRowsWork
    {
        Tensor y = empty(shape, x.dtype);
        void* input = (void*)AtenTensor.DataPointer(x);
        void* output = (void*)AtenTensor.DataPointer(y);
        int m = (int)(x.NumberOfElements / k);
        long grain = Math.Max(1, Grain / k);
        if (x.dtype == ScalarType.Float32)
        {
            work.Operands = new() { X = (float*)input, Y = (float*)output, M = m };
            ParallelRange.For(0, f, grain, ref work);
            return y;
        }

        float[] rented = ArrayPool<float>.Shared.Rent((int)((m * k) + (m * f)) + 32);
        try
        {
            fixed (float* start = rented)
            {
                // A 512-bit load that crosses a cache line costs two: from a multiple of 64 bytes on none does.
                float* wide = (float*)(((nuint)start + 63) & ~(nuint)63);
                float* sums = wide + (m * k);
                HalfConversion.BFloat16ToSingle((ushort*)input, wide, m * k);
                work.Operands = new() { X = wide, Y = sums, M = m };
                ParallelRange.For(0, f, grain, ref work);
                HalfConversion.SingleToBFloat16(sums, (ushort*)output, m * f);
            }
        }
        finally
        {
            ArrayPool<float>.Shared.Return(rented);
        }

        return y;
    }
}
