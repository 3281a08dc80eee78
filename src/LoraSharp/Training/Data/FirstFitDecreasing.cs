namespace LoraSharp.Training.Data;

/// <summary>
/// Bin packing by first fit decreasing: rows from long to short, each into the first window that has room. At most 11/9 of
/// the fewest possible windows (Johnson 1973). The first window with room is found in a tree of maxima, in O(log n).
/// </summary>
internal static class FirstFitDecreasing
{
    /// <summary>Packs items into windows.</summary>
    /// <param name="items">Numbers of the items; ties of length keep their order.</param>
    /// <param name="length">Length of an item, at most <paramref name="capacity"/>.</param>
    /// <param name="capacity">Length of a window.</param>
    public static List<List<int>> Pack(IReadOnlyList<int> items, Func<int, int> length, int capacity)
    {
        List<List<int>> windows = [];
        int leaves = 1;
        while (leaves < items.Count)
        {
            leaves *= 2;
        }

        // room[leaves + w] is what window w has left; not yet opened windows have all of it.
        int[] room = new int[2 * leaves];
        Array.Fill(room, capacity);
        foreach (int item in items.OrderByDescending(length))
        {
            int size = length(item);
            if (size > capacity)
            {
                throw new ArgumentException($"an item of length {size} does not fit a window of {capacity}", nameof(items));
            }

            int node = 1;
            while (node < leaves)
            {
                node = room[2 * node] >= size ? 2 * node : (2 * node) + 1;
            }

            int window = node - leaves;
            if (window == windows.Count)
            {
                windows.Add([]);
            }

            windows[window].Add(item);
            room[node] -= size;
            for (node /= 2; node >= 1; node /= 2)
            {
                room[node] = Math.Max(room[2 * node], room[(2 * node) + 1]);
            }
        }

        return windows;
    }
}
