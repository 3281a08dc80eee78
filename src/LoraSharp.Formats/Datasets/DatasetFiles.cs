using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Datasets;

/// <summary>Turns what a recipe names as data (a file, a folder, a pattern) into files.</summary>
public static partial class DatasetFiles
{
    /// <summary>Extensions that are taken from a folder (each also packed as .gz, .xz, .zst).</summary>
    public static IReadOnlyList<string> Extensions { get; } = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt"];

    /// <summary>The files a path stands for, in ordinal order of their paths.</summary>
    /// <param name="path">A file; a folder, of which every data file below is taken; or a pattern with <c>*</c>, <c>?</c> and <c>**</c>.</param>
    /// <param name="split">
    /// <c>train</c>, <c>validation</c> or <c>test</c>: of a folder that has files named after splits (train-00000-of-00002.parquet,
    /// test.jsonl, ...) only those of this split; null for all.
    /// </param>
    /// <exception cref="LoraSharpException">Nothing was found.</exception>
    public static IReadOnlyList<string> Expand(string path, string? split = null)
    {
        if (File.Exists(path))
        {
            return [path];
        }

        if (Directory.Exists(path))
        {
            return Sorted(OfSplit(Directory.EnumerateFiles(path, "*", SearchOption.AllDirectories).Where(f => IsVisible(path, f) && IsData(f)).ToList(), split))
                is { Count: > 0 } found ? found : throw new LoraSharpException($"{path}: no data files in this folder. Expected {Expected}.");
        }

        if (path.AsSpan().IndexOfAny('*', '?') < 0)
        {
            throw new LoraSharpException($"{path}: there is no such file or folder. Expected a data file ({Expected}), a folder of them, or a pattern such as data/*.jsonl.");
        }

        (string root, Regex pattern) = Compile(path);
        List<string> matches = Directory.Exists(root)
            ? Sorted(Directory.EnumerateFiles(root, "*", SearchOption.AllDirectories).Where(f => pattern.IsMatch(Path.GetRelativePath(root, f).Replace('\\', '/'))))
            : [];
        return matches.Count > 0 ? matches : throw new LoraSharpException($"{path}: no file matches this pattern (looked below {Path.GetFullPath(root)}).");
    }

    private static string Expected => string.Join(" ", Extensions) + ", each also .gz, .xz or .zst";

    private static bool IsData(string file) => Extensions.Contains(CompressedFile.InnerExtension(file));

    private static bool IsVisible(string root, string file) => !Path.GetRelativePath(root, file).Split(Path.DirectorySeparatorChar).Any(part => part.StartsWith('.'));

    private static List<string> Sorted(IEnumerable<string> files) => [.. files.Order(StringComparer.Ordinal)];

    private static List<string> OfSplit(List<string> files, string? split)
    {
        if (split is null)
        {
            return files;
        }

        string[] Splits(string file) => [.. SplitName().Matches(Path.GetFileName(file).ToLowerInvariant()).Select(m => m.Groups[1].Value is "valid" or "validation" or "val" or "dev" or "eval" ? "validation" : m.Groups[1].Value)];
        return files.Any(f => Splits(f).Length > 0) ? [.. files.Where(f => Splits(f).Contains(split))] : files;
    }

    private static (string Root, Regex Pattern) Compile(string path)
    {
        string[] parts = path.Replace('\\', '/').Split('/');
        int first = Array.FindIndex(parts, p => p.AsSpan().IndexOfAny('*', '?') >= 0);
        string root = string.Join('/', parts[..first]);
        root = root.Length > 0 ? root : path.StartsWith('/') ? "/" : ".";
        string pattern = string.Join('/', parts[first..]);
        string regex = Regex.Escape(pattern).Replace(@"\*\*/", "(?:.*/)?").Replace(@"\*\*", ".*").Replace(@"\*", "[^/]*").Replace(@"\?", "[^/]");
        return (root, new Regex($"^{regex}$", RegexOptions.CultureInvariant));
    }

    [GeneratedRegex(@"(?:^|[^a-z])(train|validation|valid|val|dev|eval|test)(?=[^a-z]|$)")]
    private static partial Regex SplitName();
}
