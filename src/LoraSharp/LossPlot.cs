using LoraSharp.Formats;
using ScottPlot;

namespace LoraSharp;

/// <summary>Draws the losses of a run: each step, their running mean, and the validation loss.</summary>
public static class LossPlot
{
    /// <summary>Writes a PNG of 1000 × 600 pixels.</summary>
    /// <param name="path">The file; written aside and renamed.</param>
    /// <param name="title">Above the plot.</param>
    /// <param name="training">Step and training loss, in order.</param>
    /// <param name="validation">Step and validation loss, in order; may be empty.</param>
    /// <param name="unit">Beside the vertical axis.</param>
    public static void Write(string path, string title, IReadOnlyList<(long Step, double Loss)> training, IReadOnlyList<(long Step, double Loss)> validation, string unit = "loss (nats a token)")
    {
        ArgumentNullException.ThrowIfNull(training);
        ArgumentNullException.ThrowIfNull(validation);
        var plot = new Plot();
        plot.Title(title);
        plot.XLabel("optimizer step");
        plot.YLabel(unit);
        if (training.Count > 0)
        {
            double[] steps = [.. training.Select(p => (double)p.Step)];
            var raw = plot.Add.ScatterLine(steps, [.. training.Select(p => p.Loss)]);
            raw.Color = Colors.SteelBlue.WithAlpha(0.35);
            raw.LegendText = "training";
            if (training.Count >= 10)
            {
                var smooth = plot.Add.ScatterLine(steps, Smooth([.. training.Select(p => p.Loss)]));
                smooth.Color = Colors.SteelBlue;
                smooth.LineWidth = 2.5f;
                smooth.LegendText = "training, smoothed";
            }
        }

        if (validation.Count > 0)
        {
            var points = plot.Add.Scatter(validation.Select(p => (double)p.Step).ToArray(), validation.Select(p => p.Loss).ToArray());
            points.Color = Colors.OrangeRed;
            points.LineWidth = 2;
            points.MarkerSize = 7;
            points.LegendText = "validation";
        }

        plot.ShowLegend(Alignment.UpperRight);
        byte[] png = plot.GetImageBytes(1000, 600, ImageFormat.Png);
        AtomicFile.Write(path, stream => stream.Write(png));
    }

    /// <summary>Exponential mean with the bias of its start taken out, half-life about 1/40 of the run.</summary>
    private static double[] Smooth(double[] values)
    {
        double keep = Math.Pow(0.5, 1.0 / Math.Max(2, values.Length / 40.0));
        double mean = 0;
        double weight = 0;
        double[] smoothed = new double[values.Length];
        for (int i = 0; i < values.Length; i++)
        {
            mean = (keep * mean) + ((1 - keep) * values[i]);
            weight = (keep * weight) + (1 - keep);
            smoothed[i] = mean / weight;
        }

        return smoothed;
    }
}
