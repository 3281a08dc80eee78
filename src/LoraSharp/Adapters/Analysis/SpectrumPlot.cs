using LoraSharp.Formats;
using ScottPlot;

namespace LoraSharp.Adapters.Analysis;

/// <summary>Draws the singular values of each module's update.</summary>
public static class SpectrumPlot
{
    /// <summary>Writes a PNG of 1000 × 600 pixels; modules of one kind share a colour.</summary>
    public static void Write(string path, AdapterReport report)
    {
        ArgumentNullException.ThrowIfNull(report);
        var plot = new Plot();
        plot.Title("Singular values of the update");
        plot.XLabel("direction");
        plot.YLabel("log10 σ");
        var palette = new ScottPlot.Palettes.Category10();
        var kinds = new Dictionary<string, Color>(StringComparer.Ordinal);
        foreach (ModuleReport module in report.Modules.Where(m => m.Spectrum is not null))
        {
            string kind = module.Module[(module.Module.LastIndexOf('.') + 1)..];
            bool first = !kinds.TryGetValue(kind, out Color color);
            if (first)
            {
                kinds.Add(kind, color = palette.GetColor(kinds.Count));
            }

            double[] values = [.. module.Spectrum!.SingularValues.TakeWhile(v => v > 0).Select(Math.Log10)];
            if (values.Length > 0)
            {
                var line = plot.Add.ScatterLine([.. Enumerable.Range(1, values.Length).Select(i => (double)i)], values);
                line.Color = color.WithAlpha(0.6);
                line.LegendText = first ? kind : string.Empty;
            }
        }

        plot.ShowLegend(Alignment.UpperRight);
        byte[] png = plot.GetImageBytes(1000, 600, ImageFormat.Png);
        AtomicFile.Write(path, stream => stream.Write(png));
    }
}
