using System.Buffers.Binary;

namespace LoraSharp.Formats.Gguf.Blocks;

/// <summary>The plain decoders of blocks whose 4-bit codes index a table of uneven values.</summary>
internal static class UnevenBlocks
{
    /// <summary>ggml's non-linear 4-bit levels (kvalues_iq4nl).</summary>
    private static ReadOnlySpan<sbyte> Levels => [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

    /// <summary>The e2m1 floats of OCP MX v1.0 §5.3.3, doubled to be whole numbers.</summary>
    private static ReadOnlySpan<sbyte> Floats => [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

    /// <summary>Half d, 16 bytes; d·level.</summary>
    public static void IQ4_NL(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = LegacyBlocks.Scale(block);
        for (int j = 0; j < 16; j++)
        {
            output[j] = d * Levels[block[2 + j] & 15];
            output[j + 16] = d * Levels[block[2 + j] >> 4];
        }
    }

    /// <summary>Half d, 16 high bits of scales, 4 bytes of their low bits, 128 bytes of codes; d·(scale − 32)·level.</summary>
    public static void IQ4_XS(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = LegacyBlocks.Scale(block);
        int high = BinaryPrimitives.ReadUInt16LittleEndian(block[2..]);
        ReadOnlySpan<byte> codes = block[8..];
        for (int group = 0; group < 8; group++)
        {
            int low = (block[4 + (group / 2)] >> (group % 2 * 4)) & 15;
            float scale = d * ((low | (((high >> (2 * group)) & 3) << 4)) - 32);
            for (int j = 0; j < 16; j++)
            {
                output[(group * 32) + j] = scale * Levels[codes[(group * 16) + j] & 15];
                output[(group * 32) + j + 16] = scale * Levels[codes[(group * 16) + j] >> 4];
            }
        }
    }

    /// <summary>One byte e8m0 (a power of two), 16 bytes of codes.</summary>
    public static void MXFP4(ReadOnlySpan<byte> block, Span<float> output)
    {
        // Half of 2^(e − 127), since the table is doubled; the two smallest are subnormal.
        uint exponent = block[0];
        float d = BitConverter.UInt32BitsToSingle(exponent < 2 ? 0x00200000u << (int)exponent : (exponent - 1) << 23);
        for (int j = 0; j < 16; j++)
        {
            output[j] = d * Floats[block[1 + j] & 15];
            output[j + 16] = d * Floats[block[1 + j] >> 4];
        }
    }
}
