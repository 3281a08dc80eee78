namespace LoraSharp.Training.Data;

/// <summary>Rows of one source among the examples: <paramref name="Count"/> of them from <paramref name="Start"/>, drawn <paramref name="Weight"/> times an epoch.</summary>
/// <param name="Start">First example.</param>
/// <param name="Count">How many.</param>
/// <param name="Weight">Times an epoch.</param>
public readonly record struct SourceRange(int Start, int Count, double Weight);

/// <summary>
/// The order of one epoch: rows of one or (packed) several examples each. A function of lengths, options, seed and epoch
/// alone, so that a resumed run plans it again instead of saving it.
/// </summary>
internal sealed class EpochPlan
{
    private readonly int[] _examples;
    private readonly int[] _starts;

    private EpochPlan(int[] examples, int[] starts)
    {
        _examples = examples;
        _starts = starts;
    }

    /// <summary>Rows, each of one or several examples.</summary>
    public int Rows => _starts.Length - 1;

    /// <summary>Numbers of the examples of a row.</summary>
    public ReadOnlySpan<int> Row(int row) => _examples.AsSpan(_starts[row].._starts[row + 1]);

    public static EpochPlan Build(Func<int, int> length, IReadOnlyList<SourceRange> sources, BatchOptions options, long epoch)
    {
        var random = new StableRandom(options.Seed, (ulong)epoch);
        int[] order = Draw(sources, options, random);
        if (options.Shuffle)
        {
            random.Shuffle<int>(order);
        }

        if (options.Packing)
        {
            return Packed(length, order, options, random);
        }

        if (options.GroupByLength)
        {
            Group(length, order, options, random);
        }

        int[] starts = new int[order.Length + 1];
        for (int i = 0; i < starts.Length; i++)
        {
            starts[i] = i;
        }

        return new EpochPlan(order, starts);
    }

    private static int[] Draw(IReadOnlyList<SourceRange> sources, BatchOptions options, StableRandom random)
    {
        List<int> drawn = [];
        foreach (SourceRange source in sources)
        {
            int[] all = [.. Enumerable.Range(source.Start, source.Count)];
            int copies = (int)Math.Floor(source.Weight);
            for (int i = 0; i < copies; i++)
            {
                drawn.AddRange(all);
            }

            int rest = (int)Math.Round((source.Weight - copies) * source.Count, MidpointRounding.AwayFromZero);
            if (rest > 0)
            {
                // Without shuffling the first rows of the source, so that the order stays the file's.
                if (options.Shuffle)
                {
                    random.Shuffle<int>(all);
                }

                drawn.AddRange(all.AsSpan(0, rest));
            }
        }

        return [.. drawn];
    }

    // Stretches of the shuffled order are sorted by length and cut into micro-batches, whose order is shuffled again:
    // neighbours are alike in length, yet short and long ones come at random.
    private static void Group(Func<int, int> length, int[] order, BatchOptions options, StableRandom random)
    {
        int window = options.BatchSize * Math.Max(50, options.GradientAccumulation * 8);
        for (int start = 0; start < order.Length; start += window)
        {
            int[] stretch = [.. order.Skip(start).Take(window).OrderByDescending(length)];
            int[][] batches = [.. stretch.Chunk(options.BatchSize)];
            if (options.Shuffle)
            {
                // The last one of the epoch may be short and has to stay last.
                int whole = batches[^1].Length == options.BatchSize ? batches.Length : batches.Length - 1;
                random.Shuffle<int[]>(batches.AsSpan(0, whole));
            }

            batches.SelectMany(b => b).ToArray().CopyTo(order, start);
        }
    }

    private static EpochPlan Packed(Func<int, int> length, int[] order, BatchOptions options, StableRandom random)
    {
        List<int> examples = new(order.Length);
        List<int> starts = [0];
        for (int start = 0; start < order.Length; start += options.PackingWindow)
        {
            int[] stretch = order[start..Math.Min(order.Length, start + options.PackingWindow)];
            List<int>[] packs = [.. FirstFitDecreasing.Pack(stretch, length, options.MaxLength)];
            if (options.Shuffle)
            {
                // First fit decreasing puts the longest rows into the first windows.
                random.Shuffle<List<int>>(packs);
            }

            foreach (List<int> pack in packs)
            {
                examples.AddRange(pack);
                starts.Add(examples.Count);
            }
        }

        return new EpochPlan([.. examples], [.. starts]);
    }
}
