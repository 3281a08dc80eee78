using LoraSharp.Tensors.Interop;

namespace LoraSharp.Quantization;

/// <summary>Turns parts of a matrix's rows into single precision. An implementation holds pointers and numbers only.</summary>
internal unsafe interface IRowDecoder
{
    /// <summary>Columns <paramref name="first"/> and following of a row.</summary>
    /// <param name="row">Which row.</param>
    /// <param name="first">A multiple of <see cref="RowPiece.Size"/>.</param>
    /// <param name="count">At most <see cref="RowPiece.Size"/>, whole blocks.</param>
    /// <param name="output">Room for them.</param>
    void Decode(long row, int first, int count, float* output);
}

/// <summary>Rows are decoded in pieces that stay in the first cache.</summary>
internal static class RowPiece
{
    /// <summary>Weights of a piece; whole blocks of every type.</summary>
    public const int Size = 2048;
}

/// <summary>Dequantises rows into a matrix of another type.</summary>
internal unsafe struct RowDequantization<T> : IRangeWork
    where T : unmanaged, IRowDecoder
{
    public T Decoder;
    public int Columns;
    public void* Target;

    /// <summary>Whether the target is bfloat16; float32 otherwise.</summary>
    public bool IsBfloat16;

    public readonly void Run(long begin, long end)
    {
        float* scratch = stackalloc float[RowPiece.Size];
        for (long row = begin; row < end; row++)
        {
            for (int first = 0; first < Columns; first += RowPiece.Size)
            {
                int count = Math.Min(RowPiece.Size, Columns - first);
                long at = (row * Columns) + first;
                Decoder.Decode(row, first, count, IsBfloat16 ? scratch : (float*)Target + at);
                if (IsBfloat16)
                {
                    HalfConversion.SingleToBFloat16(scratch, (ushort*)Target + at, count);
                }
            }
        }
    }
}
