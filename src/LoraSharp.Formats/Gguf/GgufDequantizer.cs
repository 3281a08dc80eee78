using System.Buffers.Binary;
using LoraSharp.Formats.Gguf.Blocks;

namespace LoraSharp.Formats.Gguf;

/// <summary>
/// Weights of any <see cref="GgufTensorType"/> as single precision, equal bit for bit to the <c>gguf</c> Python package.
/// </summary>
public static class GgufDequantizer
{
    // Below this many weights the cost of starting tasks exceeds the work.
    private const int ParallelFrom = 1 << 16;

    /// <summary>Decodes whole blocks.</summary>
    /// <param name="type">How they are stored.</param>
    /// <param name="source">Blocks one after the other.</param>
    /// <param name="output">Room for exactly the weights they hold.</param>
    /// <exception cref="ArgumentException">The lengths do not agree.</exception>
    public static void Dequantize(GgufTensorType type, ReadOnlySpan<byte> source, Span<float> output)
    {
        Check(type, source.Length, output.Length);
        if (VectorBlocks.For(type) is { } fast)
        {
            fast(source, output);
        }
        else
        {
            DequantizePlain(type, source, output);
        }
    }

    /// <summary>As <see cref="Dequantize(GgufTensorType, ReadOnlySpan{byte}, Span{float})"/>, by the plain code: the reference for the vectorised one.</summary>
    public static void DequantizePlain(GgufTensorType type, ReadOnlySpan<byte> source, Span<float> output)
    {
        Check(type, source.Length, output.Length);
        RowDecoder decoder = Plain(type);
        int weights = type.BlockWeights();
        int bytes = type.BlockBytes();
        for (; source.Length > 0; source = source[bytes..], output = output[weights..])
        {
            decoder(source[..bytes], output[..weights]);
        }
    }

    /// <summary>Decodes a long run of blocks on all cores.</summary>
    /// <param name="type">How they are stored.</param>
    /// <param name="source">Address of the first block.</param>
    /// <param name="output">Address of room for <paramref name="weights"/> numbers.</param>
    /// <param name="weights">How many; a multiple of the block size.</param>
    public static unsafe void Dequantize(GgufTensorType type, byte* source, float* output, long weights)
    {
        int block = type.BlockWeights();
        int bytes = type.BlockBytes();
        if (weights % block != 0)
        {
            throw new ArgumentException($"{weights} weights do not fill blocks of {block}.", nameof(weights));
        }

        int piece = ParallelFrom / block * block;
        long pieces = (weights + piece - 1) / piece;
        void Decode(long i)
        {
            long begin = i * piece;
            int count = (int)Math.Min(piece, weights - begin);
            Dequantize(type, new ReadOnlySpan<byte>(source + (begin / block * bytes), count / block * bytes), new Span<float>(output + begin, count));
        }

        if (pieces <= 1)
        {
            Decode(0);
        }
        else
        {
            Parallel.For(0, pieces, Decode);
        }
    }

    private static void Check(GgufTensorType type, int bytes, int weights)
    {
        if (type.ByteCount(weights) != bytes)
        {
            throw new ArgumentException($"{weights} weights of {type} take {type.ByteCount(weights)} bytes, found {bytes}.");
        }
    }

    private static RowDecoder Plain(GgufTensorType type) => type switch
    {
        GgufTensorType.F32 => (s, o) => o[0] = BinaryPrimitives.ReadSingleLittleEndian(s),
        GgufTensorType.F16 => (s, o) => o[0] = (float)BinaryPrimitives.ReadHalfLittleEndian(s),
        GgufTensorType.BF16 => (s, o) => o[0] = BitConverter.UInt32BitsToSingle((uint)BinaryPrimitives.ReadUInt16LittleEndian(s) << 16),
        GgufTensorType.F64 => (s, o) => o[0] = (float)BinaryPrimitives.ReadDoubleLittleEndian(s),
        GgufTensorType.I8 => (s, o) => o[0] = (sbyte)s[0],
        GgufTensorType.I16 => (s, o) => o[0] = BinaryPrimitives.ReadInt16LittleEndian(s),
        GgufTensorType.I32 => (s, o) => o[0] = BinaryPrimitives.ReadInt32LittleEndian(s),
        GgufTensorType.I64 => (s, o) => o[0] = BinaryPrimitives.ReadInt64LittleEndian(s),
        GgufTensorType.Q4_0 => LegacyBlocks.Q4_0,
        GgufTensorType.Q4_1 => LegacyBlocks.Q4_1,
        GgufTensorType.Q5_0 => LegacyBlocks.Q5_0,
        GgufTensorType.Q5_1 => LegacyBlocks.Q5_1,
        GgufTensorType.Q8_0 => LegacyBlocks.Q8_0,
        GgufTensorType.Q2_K => KBlocks.Q2_K,
        GgufTensorType.Q3_K => KBlocks.Q3_K,
        GgufTensorType.Q4_K => KBlocks.Q4_K,
        GgufTensorType.Q5_K => KBlocks.Q5_K,
        GgufTensorType.Q6_K => KBlocks.Q6_K,
        GgufTensorType.IQ4_NL => UnevenBlocks.IQ4_NL,
        GgufTensorType.IQ4_XS => UnevenBlocks.IQ4_XS,
        GgufTensorType.MXFP4 => UnevenBlocks.MXFP4,
        GgufTensorType.TQ1_0 => TernaryBlocks.TQ1_0,
        GgufTensorType.TQ2_0 => TernaryBlocks.TQ2_0,
        _ => throw new LoraSharpException($"GGUF tensor type {(int)type} cannot be decoded."),
    };
}
