using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>
/// Where the sequences of packed rows lie, all rows end to end: stretches of neighbours of one length, each of which is a
/// batch of its own for attention. Padding is a sequence like any other.
/// </summary>
/// <remarks>b rows, s tokens, h heads, e size of a head; a stretch has c sequences of l tokens.</remarks>
internal sealed class PackedRuns
{
    private readonly (long Count, long Length)[] _runs;
    private readonly long[] _sizes;

    private PackedRuns(IEnumerable<(long Count, long Length)> runs)
    {
        _runs = [.. runs];
        _sizes = [.. _runs.Select(r => r.Count * r.Length)];
    }

    /// <summary>Finds them.</summary>
    /// <param name="sequences">[b, s] int64 on the CPU: number of each token's sequence within its row.</param>
    /// <returns>Null where a row's sequence is not one piece.</returns>
    public static PackedRuns? Of(Tensor sequences)
    {
        long[] numbers = sequences.data<long>().ToArray();
        long s = sequences.shape[1];
        List<(long Count, long Length)> runs = [];
        HashSet<long> seen = [];
        for (long start = 0, end; start < numbers.Length; start = end)
        {
            long row = (start / s * s) + s;
            for (end = start + 1; end < row && numbers[end] == numbers[start]; end++)
            {
            }

            if (start % s == 0)
            {
                seen.Clear();
            }

            if (!seen.Add(numbers[start]))
            {
                return null;
            }

            Add(runs, end - start);
        }

        return new PackedRuns(runs);
    }

    /// <summary>[b, h, s, e] → of each stretch [c, h, l, e]: views, where s comes before h in memory.</summary>
    public Tensor[] Split(Tensor x)
    {
        long h = x.shape[1], e = x.shape[3];

        // Cut once, so that the gradients are put together once.
        Tensor[] pieces = x.transpose(1, 2).reshape(-1, h, e).split(_sizes);
        return [.. pieces.Select((piece, i) => piece.view(_runs[i].Count, _runs[i].Length, h, e).transpose(1, 2))];
    }

    /// <summary>The other way: of each stretch [c, h, l, e] → [b, h, s, e], s before h in memory.</summary>
    public static Tensor Join(IReadOnlyList<Tensor> pieces, long rows)
    {
        long h = pieces[0].shape[1], e = pieces[0].shape[3];
        Tensor whole = cat([.. pieces.Select(piece => piece.transpose(1, 2).reshape(-1, h, e))]);
        return whole.view(rows, -1, h, e).transpose(1, 2);
    }

    private static void Add(List<(long Count, long Length)> runs, long length)
    {
        if (runs.Count > 0 && runs[^1].Length == length)
        {
            runs[^1] = (runs[^1].Count + 1, length);
        }
        else
        {
            runs.Add((1, length));
        }
    }
}
