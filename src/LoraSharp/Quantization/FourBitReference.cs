namespace LoraSharp.Quantization;

/// <summary>
/// Block-wise 4-bit quantisation in plain loops: what the fast kernels are tested against, and what every processor can
/// run. Follows bitsandbytes 0.50.2 on a CPU to the bit.
/// </summary>
public static class FourBitReference
{
    // What bitsandbytes divides by instead of zero; a denormal number, whose reciprocal is still finite.
    private const float Tiny = 1e-38f;

    /// <summary>Bytes of n packed codes: two a byte.</summary>
    public static long PackedBytes(long count) => (count + 1) / 2;

    /// <summary>Blocks of n values; the last may be short.</summary>
    public static long Blocks(long count, int blockSize) => (count + blockSize - 1) / blockSize;

    /// <summary>Quantises a flat tensor.</summary>
    /// <param name="values">n values.</param>
    /// <param name="blockSize">Values that share one scale: 32, 64 … 4096.</param>
    /// <param name="codebook">NF4 or FP4.</param>
    /// <param name="packed">(n + 1) / 2 bytes: the first of two codes in the high half.</param>
    /// <param name="absmax">One scale a block.</param>
    public static void Quantize(ReadOnlySpan<float> values, int blockSize, FourBitCodebook codebook, Span<byte> packed, Span<float> absmax)
    {
        ArgumentNullException.ThrowIfNull(codebook);
        packed.Clear();
        for (int block = 0; block * blockSize < values.Length; block++)
        {
            int start = block * blockSize;
            int length = Math.Min(blockSize, values.Length - start);
            ReadOnlySpan<float> piece = values.Slice(start, length);
            float largest = 0;
            foreach (float value in piece)
            {
                largest = float.IsNaN(value) ? value : Math.Max(largest, Math.Abs(value));
            }

            // A whole block is multiplied by a reciprocal, the short one at the end is divided, and only there the
            // replacement for zero gets stored: this is what the reference does, and it shows at the borders.
            bool whole = length == blockSize;
            float floored = Math.Max(largest, Tiny);
            float reciprocal = 1f / floored;
            absmax[block] = whole ? largest : floored;
            for (int i = 0; i < length; i++)
            {
                float scaled = Math.Clamp(whole ? piece[i] * reciprocal : piece[i] / floored, -1f, 1f);
                byte code = Encode(scaled, codebook);
                int position = start + i;
                packed[position / 2] |= (byte)(position % 2 == 0 ? code << 4 : code);
            }
        }

        if (values.Length % 2 != 0)
        {
            packed[values.Length / 2] |= Encode(0f, codebook);
        }
    }

    /// <summary>value = codebook[code] · absmax[block], in single precision.</summary>
    /// <param name="packed">The codes.</param>
    /// <param name="absmax">One scale a block.</param>
    /// <param name="blockSize">Values a block.</param>
    /// <param name="codebook">NF4 or FP4.</param>
    /// <param name="values">n values.</param>
    public static void Dequantize(ReadOnlySpan<byte> packed, ReadOnlySpan<float> absmax, int blockSize, FourBitCodebook codebook, Span<float> values)
    {
        ArgumentNullException.ThrowIfNull(codebook);
        for (int i = 0; i < values.Length; i++)
        {
            int code = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15;
            values[i] = codebook.Values[code] * absmax[i / blockSize];
        }
    }

    /// <summary>y = W·x for a packed W [f, k], row by row.</summary>
    /// <param name="packed">The codes of W.</param>
    /// <param name="absmax">One scale a block of the flattened W.</param>
    /// <param name="blockSize">Values a block.</param>
    /// <param name="codebook">NF4 or FP4.</param>
    /// <param name="x">[k].</param>
    /// <param name="y">[f].</param>
    public static void Multiply(ReadOnlySpan<byte> packed, ReadOnlySpan<float> absmax, int blockSize, FourBitCodebook codebook, ReadOnlySpan<float> x, Span<float> y)
    {
        ArgumentNullException.ThrowIfNull(codebook);
        for (int row = 0; row < y.Length; row++)
        {
            double sum = 0;
            for (int column = 0; column < x.Length; column++)
            {
                int i = (row * x.Length) + column;
                int code = i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15;
                sum += (double)(codebook.Values[code] * absmax[i / blockSize]) * x[column];
            }

            y[row] = (float)sum;
        }
    }

    private static byte Encode(float scaled, FourBitCodebook codebook)
    {
        int rank = 0;
        while (rank < 15 && codebook.Borders[rank] < scaled)
        {
            rank++;
        }

        return codebook.CodeOfRank[rank];
    }
}
