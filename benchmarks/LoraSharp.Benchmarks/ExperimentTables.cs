using System.Globalization;
using System.Text;
using LoraSharp.Formats;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Renders the page of an experiment: between <c>&lt;!-- NAME --&gt;</c> and <c>&lt;!-- /NAME --&gt;</c> of FOLDER/README.md it
/// puts the tables of FOLDER/NAME.json (a sweep's results) as ranks × targets, and it draws FOLDER/NAME.png.
/// </summary>
internal static class ExperimentTables
{
    public static int Run(string folder)
    {
        string page = Path.Combine(folder, "README.md");
        if (!File.Exists(page))
        {
            Console.Error.WriteLine($"{page}: there is no such page. Expected a README.md with <!-- NAME --> and <!-- /NAME --> for each NAME.json beside it.");
            return 1;
        }

        string text = File.ReadAllText(page);
        foreach (string path in Directory.EnumerateFiles(folder, "*.json").Order(StringComparer.Ordinal))
        {
            string name = Path.GetFileNameWithoutExtension(path), open = $"<!-- {name} -->", close = $"<!-- /{name} -->";
            int start = text.IndexOf(open, StringComparison.Ordinal), end = text.IndexOf(close, StringComparison.Ordinal);
            if (start < 0 || end < start)
            {
                Console.Error.WriteLine($"{page}: no place for {name}. Expected {open} and {close} in it.");
                return 1;
            }

            IReadOnlyList<SweepPoint> points = SweepPoint.Read(path);
            text = text[..(start + open.Length)] + "\n" + Tables(points, name) + text[end..];
            SweepPlot.Write(Path.Combine(folder, name + ".png"), name, points, "validation loss", recommended: null);
        }

        AtomicFile.WriteText(page, text);
        return 0;
    }

    private static string Tables(IReadOnlyList<SweepPoint> points, string name)
    {
        var text = new StringBuilder();
        Table(text, "Validation loss", points, p => p.Loss, "0.000");
        foreach ((string key, string title, string format) in (ReadOnlySpan<(string, string, string)>)[("bleu", "BLEU of the test answers", "0.0"), ("exact_match", "Exact match of the test answers, %", "0.0"), ("loss", "Test loss", "0.000")])
        {
            if (points.Any(p => p.Test.TryGetValue(key, out double value) && value > 0))
            {
                Table(text, title, points, p => p.Test.TryGetValue(key, out double value) ? value : null, format);
            }
        }

        Table(text, "Trained parameters, thousands", points, p => p.Parameters / 1e3, "#,0");
        Table(text, "Seconds of training", points, p => p.Seconds, "0.0");
        return text.Append($"![{name}: loss against rank, parameters and time]({name}.png)\n\n").ToString();
    }

    // Rows are ranks, columns are targets, full fine-tunings follow below.
    private static void Table(StringBuilder text, string title, IReadOnlyList<SweepPoint> points, Func<SweepPoint, double?> value, string format)
    {
        string[] columns = [.. points.Where(p => !p.IsFull).Select(p => p.Series).Distinct()];
        text.Append($"\n| {title} | {string.Join(" | ", columns.Select(c => c.Replace("_proj", string.Empty)))} |\n| --- |{string.Concat(columns.Select(_ => " --- |"))}\n");
        foreach (int rank in points.Select(p => p.Rank).OfType<int>().Distinct().Order())
        {
            text.Append($"| r = {rank} |");
            foreach (string column in columns)
            {
                text.Append($" {Text(points.FirstOrDefault(p => p.Rank == rank && p.Series == column))} |");
            }

            text.Append('\n');
        }

        foreach (SweepPoint full in points.Where(p => p.IsFull))
        {
            text.Append($"| {full.Name} | {Text(full)} |{string.Concat(columns.Skip(1).Select(_ => " |"))}\n");
        }

        string Text(SweepPoint? point) => point is not null && value(point) is { } number ? number.ToString(format, CultureInfo.InvariantCulture) : "–";
    }
}
