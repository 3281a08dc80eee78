using System.Globalization;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// Unicode properties that .NET does not expose (Script, Emoji, Alphabetic ...), from the embedded table
/// UnicodeProperties.txt, made with a JavaScript engine's \p{...}: Unicode's own data.
/// </summary>
internal static class UnicodeProperties
{
    /// <summary>No script: Common and unassigned are scripts of their own, so only what the caller says is this.</summary>
    public const int Any = -1;

    private static readonly Lazy<Table> Loaded = new(Load);

    public static int Han => Loaded.Value.Names["Han"];

    public static int Hiragana => Loaded.Value.Names["Hiragana"];

    public static int Katakana => Loaded.Value.Names["Katakana"];

    /// <summary>A number for the script of a code point; unassigned ones have none.</summary>
    public static int Of(int codePoint)
    {
        Table table = Loaded.Value;
        int at = Array.BinarySearch(table.Starts, codePoint);
        at = at >= 0 ? at : ~at - 1;
        return at >= 0 && codePoint <= table.Ends[at] ? table.Scripts[at] : Any;
    }

    /// <summary>Ranges of a script or other property by name, without regard to case, blanks and underscores; null when there is none.</summary>
    public static IReadOnlyList<(int Start, int End)>? Ranges(string name)
    {
        Table table = Loaded.Value;
        string wanted = Plain(name);
        if (table.Properties.TryGetValue(wanted, out (int, int)[]? members))
        {
            return members;
        }

        foreach ((string known, int script) in table.Names)
        {
            if (Plain(known) == wanted)
            {
                return [.. Enumerable.Range(0, table.Starts.Length).Where(i => table.Scripts[i] == script).Select(i => (table.Starts[i], table.Ends[i]))];
            }
        }

        return null;
    }

    private static string Plain(string name) => name.Replace("_", "", StringComparison.Ordinal).Replace(" ", "", StringComparison.Ordinal)
        .Replace("-", "", StringComparison.Ordinal).ToUpperInvariant();

    private static Table Load()
    {
        using Stream stream = typeof(UnicodeProperties).Assembly.GetManifestResourceStream("LoraSharp.Formats.Tokenization.UnicodeProperties.txt")!;
        using var reader = new StreamReader(stream);
        var names = new Dictionary<string, int>(StringComparer.Ordinal);
        var properties = new Dictionary<string, (int, int)[]>(StringComparer.Ordinal);
        var ranges = new List<(int Start, int End, int Script)>(2400);
        while (reader.ReadLine() is { } line)
        {
            if (line.StartsWith('#'))
            {
                continue;
            }

            string[] parts = line.Split(' ');
            if (parts[0].StartsWith('+'))
            {
                properties.Add(Plain(parts[0][1..]), [.. parts.Skip(1).Select(range => range.Split('-')).Select(ends => (Hex(ends[0]), Hex(ends[^1])))]);
                continue;
            }

            int script = names.Count;
            names.Add(parts[0], script);
            foreach (string range in parts.Skip(1))
            {
                string[] ends = range.Split('-');
                ranges.Add((Hex(ends[0]), Hex(ends[^1]), script));
            }
        }

        ranges.Sort();
        return new Table(names, properties, [.. ranges.Select(range => range.Start)], [.. ranges.Select(range => range.End)], [.. ranges.Select(range => range.Script)]);
    }

    private static int Hex(string text) => int.Parse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);

    private sealed record Table(Dictionary<string, int> Names, Dictionary<string, (int, int)[]> Properties, int[] Starts, int[] Ends, int[] Scripts);
}
