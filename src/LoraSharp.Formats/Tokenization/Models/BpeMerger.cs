using System.Buffers;

namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>
/// Applies merges to a word: always the pair of lowest rank, the leftmost of equals (Sennrich et al. 2016, section 3.2,
/// with the ranks of training order). Short words scan for the lowest rank; long ones, e.g. whole texts of models
/// without a pre-tokenizer, use a heap: O(n log n).
/// </summary>
internal static class BpeMerger
{
    private const int ScanLimit = 48;

    /// <summary>Merges in place.</summary>
    /// <param name="merges">The merges.</param>
    /// <param name="ids">Ids of the symbols; the merged ones afterwards.</param>
    /// <param name="lengths">Bytes of each symbol, likewise.</param>
    /// <returns>How many symbols are left.</returns>
    public static int Merge(MergeTable merges, Span<int> ids, Span<int> lengths) =>
        ids.Length <= ScanLimit ? MergeByScan(merges, ids, lengths) : MergeByHeap(merges, ids, lengths);

    internal static int MergeByScan(MergeTable merges, Span<int> ids, Span<int> lengths)
    {
        int count = ids.Length;
        Span<int> ranks = stackalloc int[ScanLimit];
        Span<int> targets = stackalloc int[ScanLimit];
        for (int i = 0; i + 1 < count; i++)
        {
            merges.TryGet(ids[i], ids[i + 1], out ranks[i], out targets[i]);
        }

        while (count > 1)
        {
            int best = 0;
            for (int i = 1; i < count - 1; i++)
            {
                best = ranks[i] < ranks[best] ? i : best;
            }

            if (ranks[best] == int.MaxValue)
            {
                break;
            }

            ids[best] = targets[best];
            lengths[best] += lengths[best + 1];
            int moved = count - best - 2;
            ids.Slice(best + 2, moved).CopyTo(ids[(best + 1)..]);
            lengths.Slice(best + 2, moved).CopyTo(lengths[(best + 1)..]);
            if (moved > 0)
            {
                ranks.Slice(best + 2, moved - 1).CopyTo(ranks[(best + 1)..]);
                targets.Slice(best + 2, moved - 1).CopyTo(targets[(best + 1)..]);
            }

            count--;
            if (best + 1 < count)
            {
                merges.TryGet(ids[best], ids[best + 1], out ranks[best], out targets[best]);
            }

            if (best > 0)
            {
                merges.TryGet(ids[best - 1], ids[best], out ranks[best - 1], out targets[best - 1]);
            }
        }

        return count;
    }

    internal static int MergeByHeap(MergeTable merges, Span<int> ids, Span<int> lengths)
    {
        int count = ids.Length;
        int[] rented = ArrayPool<int>.Shared.Rent(2 * count);
        Span<int> previous = rented.AsSpan(0, count);
        Span<int> next = rented.AsSpan(count, count);
        var queue = new PriorityQueue<int, ulong>(count);
        for (int i = 0; i < count; i++)
        {
            previous[i] = i - 1;
            next[i] = i + 1 < count ? i + 1 : -1;
            if (i + 1 < count && merges.TryGet(ids[i], ids[i + 1], out int rank, out int target))
            {
                queue.Enqueue(target, Priority(rank, i));
            }
        }

        while (queue.TryDequeue(out int target, out ulong priority))
        {
            int at = (int)(uint)priority;
            int right = next[at];
            // An entry is stale when either symbol has been merged since.
            if (lengths[at] == 0 || right < 0 || !merges.TryGet(ids[at], ids[right], out _, out int current) || current != target)
            {
                continue;
            }

            ids[at] = target;
            lengths[at] += lengths[right];
            lengths[right] = 0;
            next[at] = next[right];
            if (next[right] >= 0)
            {
                previous[next[right]] = at;
                if (merges.TryGet(ids[at], ids[next[at]], out int rank, out int merged))
                {
                    queue.Enqueue(merged, Priority(rank, at));
                }
            }

            if (previous[at] >= 0 && merges.TryGet(ids[previous[at]], ids[at], out int leftRank, out int leftMerged))
            {
                queue.Enqueue(leftMerged, Priority(leftRank, previous[at]));
            }
        }

        ArrayPool<int>.Shared.Return(rented);
        int kept = 0;
        for (int i = 0; i < count; i++)
        {
            if (lengths[i] != 0)
            {
                ids[kept] = ids[i];
                lengths[kept++] = lengths[i];
            }
        }

        return kept;
    }

    private static ulong Priority(int rank, int position) => ((ulong)(uint)rank << 32) | (uint)position;
}
