using LoraSharp.Formats.Datasets;

namespace LoraSharp.Training.Data;

/// <summary>Rows that something happened to: how many, and the first few places.</summary>
public sealed class RowTally
{
    private readonly List<string> _first = [];

    /// <summary>How many.</summary>
    public long Count { get; private set; }

    /// <summary>The first five origins.</summary>
    public IReadOnlyList<string> First => _first;

    internal void Add(RowOrigin origin)
    {
        Count++;
        if (_first.Count < 5)
        {
            _first.Add(origin.ToString());
        }
    }
}

/// <summary>One source as it was understood.</summary>
/// <param name="Path">What the recipe says.</param>
/// <param name="Files">Files it stands for.</param>
/// <param name="Format">Format of its rows.</param>
/// <param name="Columns">Columns that are called otherwise, field → column.</param>
/// <param name="Rows">Rows read.</param>
public sealed record SourceReport(string Path, int Files, string Format, IReadOnlyDictionary<string, string> Columns, long Rows)
{
    /// <summary>Columns that mean nothing in this format.</summary>
    public IReadOnlyList<string> UnusedColumns { get; init; } = [];

    /// <summary>How the source was understood, in a sentence.</summary>
    public override string ToString()
    {
        string unused = UnusedColumns.Count == 0 ? "" : $"; columns not used: {string.Join(", ", UnusedColumns)}";
        string label = UnusedColumns.Contains("label") ? " (for kto, label must be true or false)" : "";
        return $"{Path}: {Rows} rows, read as {Format}{unused}{label}.";
    }
}

/// <summary>What became of the rows of a data set.</summary>
public sealed class DataReport
{
    internal List<SourceReport> SourceList { get; } = [];

    internal SortedDictionary<string, RowTally> DroppedBy { get; } = new(StringComparer.Ordinal);

    internal SortedDictionary<string, RowTally> NotedBy { get; } = new(StringComparer.Ordinal);

    /// <summary>The sources, training first.</summary>
    public IReadOnlyList<SourceReport> Sources => SourceList;

    /// <summary>Rows read.</summary>
    public long Rows { get; internal set; }

    /// <summary>Rows cut to max_length.</summary>
    public RowTally Cut { get; } = new();

    /// <summary>Tokens lost by cutting.</summary>
    public long CutTokens { get; internal set; }

    /// <summary>Rows left out, by reason.</summary>
    public IReadOnlyDictionary<string, RowTally> Dropped => DroppedBy;

    /// <summary>Things worth knowing, with the rows they hold for.</summary>
    public IReadOnlyDictionary<string, RowTally> Notes => NotedBy;

    /// <summary>Training rows whose tokens equal an earlier row's.</summary>
    public RowTally Duplicates { get; } = new();

    /// <summary>Validation rows whose tokens equal a training row's.</summary>
    public RowTally Overlap { get; } = new();

    /// <summary>Everything a user should be told before training, a sentence each.</summary>
    public IReadOnlyList<string> Warnings()
    {
        List<string> lines = [];
        if (Cut.Count > 0)
        {
            lines.Add(FormattableString.Invariant($"{Cut.Count:N0} of {Rows:N0} rows were longer than max_length and cut at the end; {CutTokens:N0} tokens are lost (first: {string.Join(", ", Cut.First.Take(2))}). A larger data.max_length keeps them whole; data.long_rows: drop or split does otherwise."));
        }

        lines.AddRange(Dropped.Select(d => FormattableString.Invariant($"{d.Value.Count:N0} of {Rows:N0} rows were left out: {d.Key} (first: {string.Join(", ", d.Value.First.Take(2))}).")));
        lines.AddRange(Notes.Select(n => FormattableString.Invariant($"{n.Value.Count:N0} rows: {n.Key} (first: {n.Value.First[0]}).")));
        if (Duplicates.Count > 0)
        {
            lines.Add(FormattableString.Invariant($"{Duplicates.Count:N0} training rows equal an earlier one (first: {Duplicates.First[0]})."));
        }

        if (Overlap.Count > 0)
        {
            lines.Add(FormattableString.Invariant($"{Overlap.Count:N0} validation rows are training rows too, so the validation loss is too good (first: {Overlap.First[0]})."));
        }

        return lines;
    }
}
