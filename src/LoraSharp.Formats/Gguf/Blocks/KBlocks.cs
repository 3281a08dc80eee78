namespace LoraSharp.Formats.Gguf.Blocks;

/// <summary>The plain decoders of super-blocks of 256 weights whose scales are quantised themselves.</summary>
internal static class KBlocks
{
    /// <summary>16 bytes of scale (low half) and minimum (high half), 64 bytes of 2 bits, half d, half dmin.</summary>
    public static void Q2_K(ReadOnlySpan<byte> block, Span<float> output)
    {
        ReadOnlySpan<byte> quants = block.Slice(16, 64);
        float d = LegacyBlocks.Scale(block[80..]);
        float dmin = LegacyBlocks.Scale(block[82..]);
        for (int i = 0; i < 256; i++)
        {
            int group = i / 16;
            float scale = d * (block[group] & 15);
            float minimum = dmin * (block[group] >> 4);
            output[i] = (scale * ((quants[(i / 128 * 32) + (i % 32)] >> (i % 128 / 32 * 2)) & 3)) - minimum;
        }
    }

    /// <summary>32 bytes of third bits (0 means −4), 64 bytes of 2 bits, 12 bytes of sixteen 6-bit scales, half d.</summary>
    public static void Q3_K(ReadOnlySpan<byte> block, Span<float> output)
    {
        ReadOnlySpan<byte> quants = block.Slice(32, 64);
        ReadOnlySpan<byte> scales = block.Slice(96, 12);
        float d = LegacyBlocks.Scale(block[108..]);
        for (int i = 0; i < 256; i++)
        {
            int group = i / 16;
            int low = (scales[group % 8] >> (group / 8 * 4)) & 15;
            int high = (scales[8 + (group % 4)] >> (group / 4 * 2)) & 3;
            float scale = d * ((low | (high << 4)) - 32);
            int q = (quants[(i / 128 * 32) + (i % 32)] >> (i % 128 / 32 * 2)) & 3;
            int third = (block[i % 32] >> (i / 32)) & 1;
            output[i] = scale * (q - ((third ^ 1) << 2));
        }
    }

    /// <summary>Half d, half dmin, 12 bytes of eight 6-bit scales and minima, 128 bytes of 4 bits.</summary>
    public static void Q4_K(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = LegacyBlocks.Scale(block);
        float dmin = LegacyBlocks.Scale(block[2..]);
        ReadOnlySpan<byte> quants = block[16..];
        for (int group = 0; group < 8; group++)
        {
            (int scale, int minimum) = ScaleAndMinimum(block.Slice(4, 12), group);
            float dl = d * scale;
            float ml = dmin * minimum;
            for (int j = 0; j < 32; j++)
            {
                output[(group * 32) + j] = (dl * ((quants[(group / 2 * 32) + j] >> (group % 2 * 4)) & 15)) - ml;
            }
        }
    }

    /// <summary>As <see cref="Q4_K"/> with 32 bytes of fifth bits before the 4-bit ones.</summary>
    public static void Q5_K(ReadOnlySpan<byte> block, Span<float> output)
    {
        float d = LegacyBlocks.Scale(block);
        float dmin = LegacyBlocks.Scale(block[2..]);
        ReadOnlySpan<byte> high = block.Slice(16, 32);
        ReadOnlySpan<byte> quants = block[48..];
        for (int group = 0; group < 8; group++)
        {
            (int scale, int minimum) = ScaleAndMinimum(block.Slice(4, 12), group);
            float dl = d * scale;
            float ml = dmin * minimum;
            for (int j = 0; j < 32; j++)
            {
                int q = ((quants[(group / 2 * 32) + j] >> (group % 2 * 4)) & 15) | (((high[j] >> group) & 1) << 4);
                output[(group * 32) + j] = (dl * q) - ml;
            }
        }
    }

    /// <summary>128 bytes of 4 low bits, 64 bytes of 2 high bits, 16 signed scales, half d; d·scale·(q − 32).</summary>
    public static void Q6_K(ReadOnlySpan<byte> block, Span<float> output)
    {
        ReadOnlySpan<byte> high = block.Slice(128, 64);
        ReadOnlySpan<byte> scales = block.Slice(192, 16);
        float d = LegacyBlocks.Scale(block[208..]);
        for (int i = 0; i < 256; i++)
        {
            int half = i / 128;
            int within = i % 128;
            int low = (block[(half * 64) + (within % 64)] >> (within / 64 * 4)) & 15;
            int top = (high[(half * 32) + (within % 32)] >> (within / 32 * 2)) & 3;
            output[i] = d * (sbyte)scales[i / 16] * ((low | (top << 4)) - 32);
        }
    }

    /// <summary>The 6-bit scale and minimum of a group of 32: the first four stand whole, the high bits of the last four fill the gaps.</summary>
    internal static (int Scale, int Minimum) ScaleAndMinimum(ReadOnlySpan<byte> packed, int group)
    {
        if (group < 4)
        {
            return (packed[group] & 63, packed[group + 4] & 63);
        }

        int shared = packed[group + 4];
        return ((shared & 15) | ((packed[group - 4] >> 6) << 4), (shared >> 4) | ((packed[group] >> 6) << 4));
    }
}
