using System.Text.Json.Nodes;
using LoraSharp.Training;

namespace LoraSharp.Server.Training;

/// <summary>A run's events as JSON, under the names that <c>metrics.jsonl</c> has; what is no number is null.</summary>
internal static class TrainingEventJson
{
    public static JsonObject Of(TrainingEvent happened)
    {
        JsonObject json = happened switch
        {
            TrainingStarted e => new() { ["event"] = "started", ["total_steps"] = e.TotalSteps, ["trainable_parameters"] = e.TrainableParameters, ["resumed_from"] = e.ResumedFrom },
            StepCompleted e => With(e.Metrics, "", new()
            {
                ["event"] = "step",
                ["total_steps"] = e.TotalSteps,
                ["loss"] = Finite(e.Loss),
                ["grad_norm"] = Finite(e.GradNorm),
                ["learning_rate"] = Finite(e.LearningRate),
                ["tokens"] = e.Tokens,
                ["tokens_per_second"] = Finite(Math.Round(e.TokensPerSecond, 1)),
                ["epoch"] = Finite(Math.Round(e.Epoch, 6)),
                ["remaining_seconds"] = Math.Round(e.Remaining.TotalSeconds, 1),
            }),
            Evaluated e => With(e.Metrics, "eval_", new() { ["event"] = "evaluated", ["eval_loss"] = Finite(e.Loss), ["best"] = e.IsBest }),
            LossSpiked e => new() { ["event"] = "loss_spiked", ["loss"] = Finite(e.Loss), ["usual"] = Finite(e.Usual), ["rows"] = new JsonArray([.. e.Rows.Select(r => (JsonNode)r)]) },
            CheckpointSaved e => new() { ["event"] = "checkpoint_saved", ["folder"] = e.Folder },
            CheckpointSkipped e => new() { ["event"] = "checkpoint_skipped", ["folder"] = e.Folder, ["reason"] = e.Reason },
            _ => new() { ["event"] = happened.GetType().Name },
        };
        json["step"] = happened.Step;
        return json;
    }

    /// <summary>JSON knows no NaN and no infinity.</summary>
    public static JsonNode? Finite(double? value) => value is { } number && double.IsFinite(number) ? number : null;

    private static JsonObject With(IReadOnlyDictionary<string, double> metrics, string prefix, JsonObject json)
    {
        foreach ((string name, double value) in metrics)
        {
            json[prefix + name] = Finite(value);
        }

        return json;
    }
}
