namespace LoraSharp.Formats.Gguf.Blocks;

/// <summary>The plain decoders of −1, 0, 1 blocks of 256 weights.</summary>
internal static class TernaryBlocks
{
    private static ReadOnlySpan<byte> Powers => [1, 3, 9, 27, 81];

    /// <summary>
    /// 48 bytes of five trits, 4 bytes of four, half d. A byte is a fraction in base 3: multiplied by 3ⁿ modulo 256, its
    /// next digit is the carry of one more multiplication by 3. Trit n of all bytes of a run comes before trit n + 1.
    /// </summary>
    public static void TQ1_0(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = LegacyBlocks.Scale(block[52..]);
        int at = 0;
        at = Run(block[..32], 5, d, output, at);
        at = Run(block.Slice(32, 16), 5, d, output, at);
        _ = Run(block.Slice(48, 4), 4, d, output, at);
    }

    /// <summary>64 bytes of 2 bits, half d; d·(q − 1).</summary>
    public static void TQ2_0(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = LegacyBlocks.Scale(block[64..]);
        for (int i = 0; i < 256; i++)
        {
            output[i] = d * (((block[(i / 128 * 32) + (i % 32)] >> (i % 128 / 32 * 2)) & 3) - 1);
        }
    }

    private static int Run(ReadOnlySpan<byte> bytes, int trits, float d, Span<float> output, int at)
    {
        for (int n = 0; n < trits; n++)
        {
            foreach (byte value in bytes)
            {
                byte shifted = (byte)(value * Powers[n]);
                output[at++] = d * (((shifted * 3) >> 8) - 1);
            }
        }

        return at;
    }
}
