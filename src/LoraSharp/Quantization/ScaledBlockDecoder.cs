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
        byte* codes = Codes + (block * TCodes.Bytes);
        for (int i = 0; i < blocks; i++, codes += TCodes.Bytes, output += Block)
        {
            switch (Width)
            {
                case VectorWidth.Avx512:
                    TCodes.Load(codes, out Vector512<float> lower, out Vector512<float> upper);
                    (lower * scales[i]).Store(output);
                    (upper * scales[i]).Store(output + 16);
                    break;
                case VectorWidth.Avx2:
                    TCodes.Load(codes, out Vector256<float> a, out Vector256<float> b, out Vector256<float> c, out Vector256<float> d);
                    (a * scales[i]).Store(output);
                    (b * scales[i]).Store(output + 8);
                    (c * scales[i]).Store(output + 16);
                    (d * scales[i]).Store(output + 24);
                    break;
                default:
                    for (int j = 0; j < Block; j++)
                    {
                        output[j] = TCodes.Get(codes, j) * scales[i];
                    }

                    break;
            }
        }
    }
}
