using LoraSharp.Formats;
using LoraSharp.Training.Sweeps;
using ScottPlot;

namespace LoraSharp;

/// <summary>Loss of each trial against its trained parameters, one colour a learning rate; the recommended one is ringed.</summary>
public static class SweepPlot
{
    /// <summary>Writes a PNG of 1000 × 600 pixels.</summary>
    /// <param name="path">The file; written aside and renamed.</param>
    /// <param name="report">At least one trial that did not fail.</param>
    public static void Write(string path, SweepReport report)
    {
        ArgumentNullException.ThrowIfNull(report);
        var plot = new Plot();
        plot.Title("Sweep");
        plot.XLabel("trained parameters (powers of ten)");
        plot.YLabel(report.IsValidated ? "validation loss" : "training loss");
        TrialResult[] good = [.. report.Trials.Select(t => t.Training).Where(t => double.IsFinite(t.Score))];
        foreach (IGrouping<double, TrialResult> rate in good.GroupBy(t => t.Trial.Training.LearningRate).OrderBy(g => g.Key))
        {
            TrialResult[] ordered = [.. rate.OrderBy(t => t.TrainableParameters)];
            var points = plot.Add.ScatterPoints(ordered.Select(X).ToArray(), ordered.Select(t => t.Score).ToArray());
            points.MarkerSize = 9;
            points.LegendText = FormattableString.Invariant($"learning rate {rate.Key:0.######}");
            foreach (TrialResult trial in ordered)
            {
                var label = plot.Add.Text(trial.Trial.Name, X(trial), trial.Score);
                label.LabelFontSize = 10;
                label.OffsetX = 6;
            }
        }

        if (report.Recommendation is { } advice)
        {
            var ring = plot.Add.Marker(X(advice.Recommended), advice.Recommended.Score, MarkerShape.OpenCircle, 18, Colors.OrangeRed);
            ring.LineWidth = 2;
            ring.LegendText = "recommended";
        }

        plot.ShowLegend(Alignment.UpperRight);
        byte[] png = plot.GetImageBytes(1000, 600, ImageFormat.Png);
        AtomicFile.Write(path, stream => stream.Write(png));

        static double X(TrialResult trial) => Math.Log10(Math.Max(1, trial.TrainableParameters));
    }
}
