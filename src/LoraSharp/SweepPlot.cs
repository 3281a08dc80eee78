using LoraSharp.Formats;
using ScottPlot;
using ScottPlot.MultiplotLayouts;

namespace LoraSharp;

/// <summary>Loss of each trial against its rank, its trained parameters and its time, a line a series; full fine-tunings are level lines, the recommended trial is ringed.</summary>
public static class SweepPlot
{
    private const int Width = 1500, Height = 480;

    /// <summary>Writes a PNG of 1500 × 480 pixels.</summary>
    /// <param name="path">The file; written aside and renamed.</param>
    /// <param name="title">Above the plots.</param>
    /// <param name="points">At least one that did not fail.</param>
    /// <param name="loss">What the losses are.</param>
    /// <param name="recommended">Name of the trial to ring; null for none.</param>
    public static void Write(string path, string title, IReadOnlyList<SweepPoint> points, string loss, string? recommended)
    {
        ArgumentNullException.ThrowIfNull(points);
        SweepPoint[] good = [.. points.Where(p => p.Loss is not null)];
        var plots = new Multiplot();
        plots.AddPlots(3);
        plots.Layout = new Grid(1, 3);
        Draw(plots.GetPlot(0), good, "rank r", p => p.Rank ?? 1, isLogarithmic: true);
        Draw(plots.GetPlot(1), good, "trained parameters", p => Math.Max(1, p.Parameters), isLogarithmic: true);
        Draw(plots.GetPlot(2), good, "seconds of training", p => p.Seconds, isLogarithmic: false);
        plots.GetPlot(0).YLabel(loss);
        plots.GetPlot(1).Title(title);
        plots.GetPlot(2).ShowLegend(Alignment.UpperRight);
        string aside = path + ".png.tmp";
        plots.SavePng(aside, Width, Height);
        byte[] png = File.ReadAllBytes(aside);
        File.Delete(aside);
        AtomicFile.Write(path, stream => stream.Write(png));

        void Draw(Plot plot, SweepPoint[] all, string label, Func<SweepPoint, double> value, bool isLogarithmic)
        {
            double X(SweepPoint p) => isLogarithmic ? Math.Log2(value(p)) : value(p);
            plot.XLabel(label);
            foreach (IGrouping<string, SweepPoint> series in all.Where(p => !p.IsFull).GroupBy(p => p.Series))
            {
                SweepPoint[] ordered = [.. series.OrderBy(X)];
                var line = plot.Add.Scatter(ordered.Select(X).ToArray(), ordered.Select(p => p.Loss!.Value).ToArray());
                line.MarkerSize = 7;
                line.LegendText = series.Key;
            }

            foreach (SweepPoint full in all.Where(p => p.IsFull))
            {
                var level = plot.Add.HorizontalLine(full.Loss!.Value, 2, Colors.Gray, LinePattern.Dashed);
                level.LegendText = full.Name;
            }

            if (all.FirstOrDefault(p => p.Name == recommended) is { } chosen)
            {
                var ring = plot.Add.Marker(X(chosen), chosen.Loss!.Value, MarkerShape.OpenCircle, 18, Colors.OrangeRed);
                ring.LineWidth = 2;
                ring.LegendText = "recommended";
            }

            if (isLogarithmic)
            {
                // Ranks and counts span powers: the axis is their logarithm, the labels are the numbers.
                double[] ticks = [.. all.Where(p => !p.IsFull).Select(X).Distinct().Order()];
                double[] shown = ticks.Length > 8 ? [.. ticks.Where((_, i) => i % ((ticks.Length / 6) + 1) == 0)] : ticks;
                plot.Axes.Bottom.SetTicks(shown, [.. shown.Select(t => Short(Math.Pow(2, t)))]);
            }
        }
    }

    private static string Short(double value) => value >= 999_500 ? FormattableString.Invariant($"{value / 1e6:0.#}M") : value >= 1000 ? FormattableString.Invariant($"{value / 1e3:0}k") : FormattableString.Invariant($"{value:0}");
}
