namespace LoraSharp.Formats.Datasets;

/// <summary>Where a row of a data set stands.</summary>
/// <param name="File">Path of the file as it was given.</param>
/// <param name="Line">First line of the row, from 1; for Parquet the number of the row, from 1.</param>
public readonly record struct RowOrigin(string File, long Line)
{
    /// <inheritdoc/>
    public override string ToString() => $"{File}:{Line}";
}
