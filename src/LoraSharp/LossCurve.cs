using System.Text.Json;
using LoraSharp.Training;

namespace LoraSharp;

/// <summary>Collects the losses of a run, those of earlier sittings from its metrics file, and draws them.</summary>
internal sealed class LossCurve(string metricsPath) : ITrainingObserver
{
    private readonly List<(long Step, double Loss)> _training = [];
    private readonly List<(long Step, double Loss)> _validation = [];

    /// <summary>The objective's own numbers at the last step.</summary>
    public IReadOnlyDictionary<string, double> LastMetrics { get; private set; } = new Dictionary<string, double>();

    /// <summary>Loss of the first step.</summary>
    public double? FirstLoss => _training.Count > 0 ? _training[0].Loss : null;

    /// <inheritdoc/>
    public void On(TrainingEvent happened)
    {
        switch (happened)
        {
            case TrainingStarted { Step: > 0 } started:
                ReadEarlier(started.Step);
                break;
            case StepCompleted step:
                _training.Add((step.Step, step.Loss));
                LastMetrics = step.Metrics;
                break;
            case Evaluated evaluated:
                _validation.Add((evaluated.Step, evaluated.Loss));
                break;
        }
    }

    /// <summary>Writes the plot.</summary>
    public void Draw(string path, string title, bool isLikelihood = true) => LossPlot.Write(path, title, _training, _validation, isLikelihood ? "loss (nats a token)" : "loss");

    private void ReadEarlier(long upTo)
    {
        foreach (string line in File.Exists(metricsPath) ? File.ReadLines(metricsPath) : [])
        {
            using JsonDocument row = JsonDocument.Parse(line);
            long step = row.RootElement.GetProperty("step").GetInt64();
            if (step > upTo)
            {
                continue;
            }

            if (row.RootElement.TryGetProperty("loss", out JsonElement loss) && loss.ValueKind == JsonValueKind.Number)
            {
                _training.Add((step, loss.GetDouble()));
            }
            else if (row.RootElement.TryGetProperty("eval_loss", out JsonElement eval) && eval.ValueKind == JsonValueKind.Number)
            {
                _validation.Add((step, eval.GetDouble()));
            }
        }
    }
}
