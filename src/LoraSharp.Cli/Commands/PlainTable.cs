namespace LoraSharp.Cli.Commands;

/// <summary>Columns aligned with spaces: the same on a terminal, in a pipe and in a file.</summary>
internal static class PlainTable
{
    /// <summary>Writes a heading and rows; the first column is flush left, the others flush right.</summary>
    public static void Write(TextWriter output, IReadOnlyList<string> heading, IEnumerable<IReadOnlyList<string>> rows)
    {
        IReadOnlyList<string>[] all = [heading, .. rows];
        int[] widths = [.. Enumerable.Range(0, heading.Count).Select(c => all.Max(r => r[c].Length))];
        foreach (IReadOnlyList<string> row in all)
        {
            output.WriteLine(string.Join("  ", row.Select((cell, c) => c == 0 ? cell.PadRight(widths[c]) : cell.PadLeft(widths[c]))).TrimEnd());
        }
    }

    /// <summary>1.2 k, 3.4 M, 5.6 G.</summary>
    public static string Count(long number) => number switch
    {
        >= 1_000_000_000 => string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{number / 1e9:0.00} G"),
        >= 1_000_000 => string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{number / 1e6:0.00} M"),
        >= 10_000 => string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{number / 1e3:0.0} k"),
        _ => number.ToString(System.Globalization.CultureInfo.InvariantCulture),
    };

    /// <summary>A number to four digits.</summary>
    public static string Number(double value) => value.ToString("G4", System.Globalization.CultureInfo.InvariantCulture);
}
