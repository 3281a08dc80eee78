using System.Globalization;
using System.Text;
using LoraSharp.Training.Data;
using Spectre.Console;

namespace LoraSharp.Cli.Commands;

/// <summary>Draws a preview of data: trained tokens in green, masked ones in grey, neighbours told apart by an underline.</summary>
internal static class DataPreviewView
{
    private const int LongestShown = 400;

    public static void Write(IAnsiConsole console, DataPreview preview, bool packing)
    {
        foreach (PreviewRow row in preview.Rows)
        {
            Row(console, row);
        }

        foreach (SourceReport source in preview.Report.Sources)
        {
            string columns = string.Concat(source.Columns.Select(c => $", {c.Key} = {c.Value}"));
            Line(console, $"{source.Path}: {Count(source.Rows)} rows, format {source.Format}{columns}{(source.Files > 1 ? $", {source.Files} files" : "")}");
        }

        Lengths(console, "training", preview.Train);
        if (preview.Validation is { } validation)
        {
            Lengths(console, "validation", validation);
        }

        Histogram(console, preview.Train);
        if (preview.Packed is { } packed)
        {
            Line(console, packing && preview.Padded is { } padded
                ? $"packing: {Count(packed.Examples)} rows in {Count(packed.Rows)} windows ({Number(packed.ExamplesPerRow)} a window), {packed.Waste:P1} padding instead of {padded.Waste:P1}: {Number(preview.Saving!.Value)} times fewer tokens to compute"
                : $"batches: {packed.Waste:P1} of what the model computes is padding");
        }

        Line(console, $"steps: {Count(preview.StepsPerEpoch)} an epoch, {Count(preview.TotalSteps)} in all");
        foreach (string warning in preview.Report.Warnings())
        {
            console.Write(new Text("warning: ", new Style(Color.Yellow)));
            Line(console, warning);
        }
    }

    private static void Row(IAnsiConsole console, PreviewRow row)
    {
        Line(console, $"{row.Origin}{(row.Role is null ? "" : $" ({row.Role})")}: {row.Tokens.Count} tokens, {row.TrainedTokens} trained on");
        bool colours = console.Profile.Capabilities.Ansi;
        var text = new Paragraph();
        var plain = new StringBuilder();
        bool trained = false;
        for (int i = 0; i < Math.Min(row.Tokens.Count, LongestShown); i++)
        {
            PreviewToken token = row.Tokens[i];
            string shown = token.Text.Length == 0 ? (row.Tokens.All(t => t.Text.Length == 0) ? $"{token.Id} " : "") : token.Text;
            text.Append(shown, new Style(token.Trained ? Color.Green : Color.Grey, null, i % 2 == 0 ? Decoration.None : Decoration.Underline));
            plain.Append(token.Trained == trained ? "" : token.Trained ? "⟦" : "⟧").Append(shown);
            trained = token.Trained;
        }

        plain.Append(trained ? "⟧" : "");
        if (colours)
        {
            console.Write(text);
            console.WriteLine();
        }
        else
        {
            // In a pipe what is trained on stands in brackets.
            console.Profile.Out.Writer.WriteLine(plain.ToString());
        }

        if (row.Tokens.Count > LongestShown)
        {
            Line(console, $"… and {row.Tokens.Count - LongestShown} tokens more");
        }

        Line(console, "");
    }

    private static void Lengths(IAnsiConsole console, string name, LengthSummary summary) =>
        Line(console, $"{name}: {Count(summary.Examples)} rows, {Count(summary.Tokens)} tokens, {Count(summary.TrainedTokens)} trained on; lengths {summary.Shortest} to {summary.Longest}, mean {Number(summary.Mean)}, median {summary.Median}, 95 % up to {summary.Percentile95}");

    private static void Histogram(IAnsiConsole console, LengthSummary summary)
    {
        int most = Math.Max(1, summary.Histogram.Max(b => b.Rows));
        int width = summary.Longest.ToString(CultureInfo.InvariantCulture).Length;
        foreach (LengthBin bin in summary.Histogram)
        {
            string range = $"{bin.From.ToString(CultureInfo.InvariantCulture).PadLeft(width)}-{bin.To.ToString(CultureInfo.InvariantCulture).PadRight(width)}";
            Line(console, $"  {range} {new string('█', (int)Math.Ceiling(40.0 * bin.Rows / most))} {Count(bin.Rows)}");
        }
    }

    // Past Spectre's wrapping: lines of a log stay whole.
    private static void Line(IAnsiConsole console, string text) => console.Profile.Out.Writer.WriteLine(text);

    private static string Count(long number) => number.ToString("N0", CultureInfo.InvariantCulture);

    private static string Number(double value) => value.ToString("0.##", CultureInfo.InvariantCulture);
}
