using System.Buffers.Binary;

namespace LoraSharp.Formats.Gguf.Blocks;

/// <summary>The plain decoders of blocks of 32 weights with one scale (and minimum): the reference the vectorised ones are tested against.</summary>
internal static class LegacyBlocks
{
    /// <summary>Half d, 16 bytes: weight j in the low half of byte j, weight j + 16 in the high one; d·(q − 8).</summary>
    public static void Q4_0(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = Scale(block);
        for (int j = 0; j < 16; j++)
        {
            output[j] = d * ((block[2 + j] & 15) - 8);
            output[j + 16] = d * ((block[2 + j] >> 4) - 8);
        }
    }

    /// <summary>Half d, half m, 16 bytes; d·q + m.</summary>
    public static void Q4_1(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = Scale(block);
        float m = Scale(block[2..]);
        for (int j = 0; j < 16; j++)
        {
            output[j] = (d * (block[4 + j] & 15)) + m;
            output[j + 16] = (d * (block[4 + j] >> 4)) + m;
        }
    }

    /// <summary>Half d, 32 fifth bits, 16 bytes; d·(q − 16).</summary>
    public static void Q5_0(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = Scale(block);
        uint high = BinaryPrimitives.ReadUInt32LittleEndian(block[2..]);
        for (int j = 0; j < 16; j++)
        {
            output[j] = d * (((block[6 + j] & 15) | (int)(((high >> j) & 1) << 4)) - 16);
            output[j + 16] = d * (((block[6 + j] >> 4) | (int)(((high >> (j + 16)) & 1) << 4)) - 16);
        }
    }

    /// <summary>Half d, half m, 32 fifth bits, 16 bytes; d·q + m.</summary>
    public static void Q5_1(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = Scale(block);
        float m = Scale(block[2..]);
        uint high = BinaryPrimitives.ReadUInt32LittleEndian(block[4..]);
        for (int j = 0; j < 16; j++)
        {
            output[j] = (d * ((block[8 + j] & 15) | (int)(((high >> j) & 1) << 4))) + m;
            output[j + 16] = (d * ((block[8 + j] >> 4) | (int)(((high >> (j + 16)) & 1) << 4))) + m;
        }
    }

    /// <summary>Half d, 32 signed bytes; d·q.</summary>
    public static void Q8_0(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = Scale(block);
        for (int j = 0; j < 32; j++)
        {
            output[j] = (sbyte)block[2 + j] * d;
        }
    }

    /// <summary>The half-precision number at the start of a span.</summary>
    internal static float Scale(ReadOnlySpan<byte> bytes) => (float)BinaryPrimitives.ReadHalfLittleEndian(bytes);
}
