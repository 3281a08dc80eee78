using System.Globalization;
using LoraSharp.Training;
using Spectre.Console;

namespace LoraSharp.Cli;

/// <summary>Shows a run: on a terminal one line that is drawn over, with a bar, tokens/s and the time left; in a pipe a line now and then.</summary>
internal sealed class TrainingProgress(TextWriter output, bool live) : ITrainingObserver, IDisposable
{
    private const int BarWidth = 24;
    private const int PipeLines = 16;

    // Numbers of the objective that are worth a place on the line; metrics.jsonl has all of them.
    private static readonly (string Metric, string Name)[] Shown = [("reward", "reward"), ("rewards/accuracies", "accuracy"), ("rewards/margins", "margin")];
    private int _drawn;

    /// <inheritdoc/>
    public void On(TrainingEvent happened)
    {
        switch (happened)
        {
            case TrainingStarted started:
                Line(started.ResumedFrom is { } from
                    ? $"Going on after step {started.Step} of {started.TotalSteps} from {from}"
                    : $"Training {started.TrainableParameters.ToString("N0", CultureInfo.InvariantCulture)} parameters for {started.TotalSteps} steps");
                break;
            case StepCompleted step when live:
                Draw(step);
                break;
            case StepCompleted step when step.Step == 1 || step.Step == step.TotalSteps || step.Step % Math.Max(1, (step.TotalSteps + PipeLines - 1) / PipeLines) == 0:
                Line($"step {step.Step}/{step.TotalSteps}  {Numbers(step)}");
                break;
            case Evaluated evaluated:
                Line(string.Create(CultureInfo.InvariantCulture, $"step {evaluated.Step}  validation loss {evaluated.Loss:0.0000}{(evaluated.Perplexity is { } perplexity ? $"  perplexity {perplexity.ToString("0.###", CultureInfo.InvariantCulture)}" : "")}{Own(evaluated.Metrics)}{(evaluated.IsBest ? "  (best)" : "")}"));
                break;
            case LossSpiked spike:
                Line(string.Create(CultureInfo.InvariantCulture, $"step {spike.Step}  loss {spike.Loss:0.###} jumped above the usual {spike.Usual:0.###}; worst rows: {string.Join(", ", spike.Rows)}"));
                break;
            case CheckpointSkipped skipped:
                Line($"checkpoint {skipped.Folder} cannot be used, trying the one before: {skipped.Reason}");
                break;
            case TrainingEnded ended:
                Line(ended.Message);
                break;
        }
    }

    /// <summary>Ends the line that is drawn over.</summary>
    public void Dispose() => Erase();

    private void Draw(StepCompleted step)
    {
        int filled = (int)(BarWidth * step.Step / Math.Max(1, step.TotalSteps));
        string line = $"{new string('━', filled)}{new string('╌', BarWidth - filled)} {step.Step}/{step.TotalSteps}  {Numbers(step)}";
        int width = Math.Max(20, AnsiConsole.Profile.Width - 1);
        line = line.Length > width ? line[..width] : line;
        output.Write('\r' + line.PadRight(Math.Max(_drawn, 0)));
        _drawn = line.Length;
    }

    private void Erase()
    {
        if (_drawn > 0)
        {
            output.Write('\r' + new string(' ', _drawn) + '\r');
            _drawn = 0;
        }
    }

    private void Line(string text)
    {
        Erase();
        output.WriteLine(text);
    }

    private static string Numbers(StepCompleted step) => string.Create(
        CultureInfo.InvariantCulture,
        $"loss {step.Loss:0.0000}  norm {step.GradNorm:0.00}  lr {step.LearningRate:0.0e+0}{Own(step.Metrics)}  {step.TokensPerSecond:N0} tok/s  ETA {(int)step.Remaining.TotalHours}:{step.Remaining:mm\\:ss}");

    private static string Own(IReadOnlyDictionary<string, double> metrics) =>
        string.Concat(Shown.Where(s => metrics.ContainsKey(s.Metric)).Select(s => string.Create(CultureInfo.InvariantCulture, $"  {s.Name} {metrics[s.Metric]:0.###}")));
}
