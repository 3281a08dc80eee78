using System.Runtime.Intrinsics;

namespace LoraSharp.Quantization;

/// <summary>Weights of codes that share a scale a 32, equal bit for bit to those of <see cref="Formats.Gguf.GgufDequantizer"/>.</summary>
/// <typeparam name="TCodes">How codes lie in memory.</typeparam>
internal unsafe struct ScaledBlockDecoder<TCodes> : IRowDecoder
    where TCodes : struct, IBlockCodes
{
    private const int Block = ScaledBlockWeight.BlockSize;

    /// <summary>W [f, k].</summary>
    public byte* Codes;

    /// <summary>[f, k / 32] in half precision.</summary>
    public ushort* Scales;

    /// <summary>The same of minima, where the codes have them.</summary>
    public ushort* Minima;

    /// <summary>k / 32.</summary>
    public int RowBlocks;

    /// <summary>Which version runs.</summary>
    public VectorWidth Width;

    /// <inheritdoc/>
    public readonly void Decode(long row, int first, int count, float* output)
    {
        float* scales = stackalloc float[RowPiece.Size / Block];
        long block = (row * RowBlocks) + (first / Block);
        int blocks = count / Block;
        HalfConversion.HalfToSingle(Scales + block, scales, blocks);
        float* minima = stackalloc float[RowPiece.Size / Block];
        if (TCodes.HasMinimum)
        {
            HalfConversion.HalfToSingle(Minima + block, minima, blocks);
        }

        byte* codes = Codes + (block * TCodes.Bytes);
        for (int i = 0; i < blocks; i++, codes += TCodes.Bytes, output += Block)
        {
            switch (Width)
            {
                case VectorWidth.Avx512:
                    TCodes.Load(codes, out Vector512<float> lower, out Vector512<float> upper);
                    Weight(lower, scales, minima, i).Store(output);
                    Weight(upper, scales, minima, i).Store(output + 16);
                    break;
                case VectorWidth.Avx2:
                    TCodes.Load(codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d);
                    Weight(a, scales, minima, i).Store(output);
                    Weight(b, scales, minima, i).Store(output + 8);
                    Weight(c, scales, minima, i).Store(output + 16);
                    Weight(d, scales, minima, i).Store(output + 24);
                    break;
                default:
                    for (int j = 0; j < Block; j++)
                    {
                        float product = TCodes.Get(codes, j) * scales[i];
                        output[j] = TCodes.HasMinimum ? product + minima[i] : product;
                    }

                    break;
            }
        }
    }

    // A code of at most 8 bits times a half of 11 is exact in single precision, so nothing depends on how the sum is fused.
    private static Vector512<float> Weight(Vector512<float> codes, float* scales, float* minima, int block) =>
        TCodes.HasMinimum ? (codes * scales[block]) + Vector512.Create(minima[block]) : codes * scales[block];

    private static Vector256<float> Weight(Vector256<float> codes, float* scales, float* minima, int block) =>
        TCodes.HasMinimum ? (codes * scales[block]) + Vector256.Create(minima[block]) : codes * scales[block];
}
