namespace LoraSharp.Adapters;

/// <summary>An adapter and the factor on its contribution.</summary>
/// <param name="Adapter">The adapter.</param>
/// <param name="Weight">1 for as it was trained; 0.5 for half its effect; negative to turn it round.</param>
public readonly record struct WeightedAdapter(LoraAdapter Adapter, double Weight = 1);

/// <summary>Consecutive rows of a flattened batch [n, k] and the adapter that serves them.</summary>
/// <param name="Rows">How many.</param>
/// <param name="Adapter">The adapter, or null for the base alone.</param>
public readonly record struct RowSegment(long Rows, LoraAdapter? Adapter);

/// <summary>
/// Which adapters a forward pass uses: the same for all rows, or by segments of rows. Immutable; an
/// <see cref="AdapterSet"/> swaps it whole.
/// </summary>
public sealed class AdapterSelection
{
    private AdapterSelection(IReadOnlyList<WeightedAdapter> all, IReadOnlyList<RowSegment>? segments)
    {
        All = all;
        Segments = segments;
        Adapters = segments is null ? [.. all.Select(a => a.Adapter)] : [.. segments.Select(s => s.Adapter).OfType<LoraAdapter>().Distinct()];
    }

    /// <summary>The base alone.</summary>
    public static AdapterSelection None { get; } = new([], null);

    /// <summary>Adapters for every row; their contributions add up. Empty with <see cref="Segments"/>.</summary>
    public IReadOnlyList<WeightedAdapter> All { get; }

    /// <summary>Adapters by rows; null when all rows are alike.</summary>
    public IReadOnlyList<RowSegment>? Segments { get; }

    /// <summary>Whether the base alone is used.</summary>
    public bool IsEmpty => Segments is null && All.Count == 0;

    /// <summary>The same adapters for every row.</summary>
    public static AdapterSelection ForAll(IEnumerable<WeightedAdapter> adapters)
    {
        WeightedAdapter[] chosen = [.. adapters.Where(a => a.Weight != 0)];
        return chosen.Length == 0 ? None : new(chosen, null);
    }

    /// <summary>
    /// Adapters by rows of the flattened batch. Neighbours with the same adapter are joined; one adapter for all rows
    /// becomes the fast path, none at all the base.
    /// </summary>
    public static AdapterSelection ForRows(IEnumerable<RowSegment> segments)
    {
        var joined = new List<RowSegment>();
        foreach (RowSegment segment in segments.Where(s => s.Rows > 0))
        {
            if (joined.Count > 0 && ReferenceEquals(joined[^1].Adapter, segment.Adapter))
            {
                joined[^1] = joined[^1] with { Rows = joined[^1].Rows + segment.Rows };
            }
            else
            {
                joined.Add(segment);
            }
        }

        return joined switch
        {
            [] or [{ Adapter: null }] => None,
            [{ Adapter: { } only }] => ForAll([new(only)]),
            _ => new([], joined),
        };
    }

    /// <summary>Whether both use the same adapters for the same rows.</summary>
    internal bool Says(AdapterSelection other) =>
        All.SequenceEqual(other.All) && (ReferenceEquals(Segments, other.Segments) || (Segments is { } mine && other.Segments is { } theirs && mine.SequenceEqual(theirs)));

    /// <summary>Each adapter once.</summary>
    internal IReadOnlyList<LoraAdapter> Adapters { get; }
}
