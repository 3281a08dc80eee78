namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>
/// Which row of a GGUF tensor each row of the Hugging Face tensor is. Everything that the two worlds arrange
/// differently, apart from GPT-2's transposition, is a permutation of rows.
/// </summary>
internal static class GgufRowOrder
{
    /// <summary>Heads whose two rotary halves the file interleaves: [h, 2, e/2] here, [h, e/2, 2] there.</summary>
    public static long[] Rotary(long rows, int heads)
    {
        long size = rows / heads;
        long[] order = new long[rows];
        for (long row = 0; row < rows; row++)
        {
            long head = row / size;
            long half = row % size / (size / 2);
            long pair = row % (size / 2);
            order[row] = (head * size) + (2 * pair) + half;
        }

        return order;
    }

    /// <summary>[groups, perGroup + 2, e] here (the last two being k and v); q of all groups, then k, then v there.</summary>
    public static long[] GroupedQkv(long rows, int groups, int queriesPerGroup)
    {
        long size = rows / (groups * (queriesPerGroup + 2));
        long queries = (long)groups * queriesPerGroup * size;
        long keys = groups * size;
        long[] order = new long[rows];
        for (long row = 0; row < rows; row++)
        {
            long group = row / ((queriesPerGroup + 2) * size);
            long member = row / size % (queriesPerGroup + 2);
            long within = row % size;
            order[row] = member < queriesPerGroup
                ? (((group * queriesPerGroup) + member) * size) + within
                : queries + ((member - queriesPerGroup) * keys) + (group * size) + within;
        }

        return order;
    }

    /// <summary>The permutation the other way round.</summary>
    public static long[] Inverse(long[] order)
    {
        long[] inverse = new long[order.Length];
        for (long i = 0; i < order.Length; i++)
        {
            inverse[order[i]] = i;
        }

        return inverse;
    }
}
