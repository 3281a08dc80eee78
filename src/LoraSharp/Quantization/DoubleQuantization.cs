namespace LoraSharp.Quantization;

/// <summary>
/// The scales of the blocks, quantised once more (QLoRA, section 3, "Double Quantization"): less their mean, in blocks
/// of 256, as 8-bit dynamic codes with one fp32 scale a block. 64 weights then carry 8 + 32/256 bits instead of 32.
/// </summary>
public static class DoubleQuantization
{
    /// <summary>Scales that share one scale of the second level.</summary>
    public const int BlockSize = 256;

    /// <summary>Blocks of the second level.</summary>
    public static long Blocks(long count) => (count + BlockSize - 1) / BlockSize;

    /// <summary>Quantises scales.</summary>
    /// <param name="absmax">n scales of the first level.</param>
    /// <param name="codes">n codes.</param>
    /// <param name="nested">One scale a 256 codes.</param>
    /// <returns>The mean that was taken off.</returns>
    public static float Quantize(ReadOnlySpan<float> absmax, Span<byte> codes, Span<float> nested)
    {
        float offset = CascadeSum.Mean(absmax);
        DynamicMap map = DynamicMap.Signed;
        for (int block = 0; block * BlockSize < absmax.Length; block++)
        {
            int start = block * BlockSize;
            ReadOnlySpan<float> piece = absmax.Slice(start, Math.Min(BlockSize, absmax.Length - start));
            float largest = 0;
            foreach (float value in piece)
            {
                largest = Math.Max(largest, Math.Abs(value - offset));
            }

            nested[block] = largest;
            float reciprocal = 1f / largest;
            for (int i = 0; i < piece.Length; i++)
            {
                // All scales alike: the reference writes code 0, which times the scale 0 gives the mean again.
                codes[start + i] = largest == 0 ? (byte)0 : map.Encode((piece[i] - offset) * reciprocal);
            }
        }

        return offset;
    }

    /// <summary>absmax = map[code] · nested[block] + offset, each step rounded to single precision.</summary>
    /// <param name="codes">Codes from index <paramref name="first"/> on.</param>
    /// <param name="first">Index of the first code in the whole tensor: it tells the block.</param>
    /// <param name="map">256 values.</param>
    /// <param name="nested">Every scale of the second level.</param>
    /// <param name="offset">The mean.</param>
    /// <param name="absmax">As many scales as there are codes.</param>
    public static void Dequantize(ReadOnlySpan<byte> codes, long first, ReadOnlySpan<float> map, ReadOnlySpan<float> nested, float offset, Span<float> absmax)
    {
        for (int i = 0; i < codes.Length; i++)
        {
            float product = map[codes[i]] * nested[(int)((first + i) / BlockSize)];
            absmax[i] = product + offset;
        }
    }
}
