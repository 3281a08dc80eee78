using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;

namespace LoraSharp.Training.Checkpoints;

/// <summary>Everything of a run that is neither weights nor optimizer state, as it stands in <c>state.json</c>.</summary>
public sealed record TrainingState
{
    /// <summary>Optimizer steps completed.</summary>
    public required long Step { get; init; }

    /// <summary>Optimizer steps of the whole run: the schedule depends on it.</summary>
    public required long TotalSteps { get; init; }

    /// <summary>Updates the optimizer has made: fewer than steps where a step had nothing to train on.</summary>
    public long OptimizerSteps { get; init; }

    /// <summary>Loss of the last evaluation.</summary>
    public double? EvalLoss { get; init; }

    /// <summary>Step of <see cref="EvalLoss"/>.</summary>
    public long? EvalStep { get; init; }

    /// <summary>State of the batch source.</summary>
    public required JsonObject Data { get; init; }

    /// <summary>What the objective remembers between steps; null for nothing.</summary>
    public JsonObject? Objective { get; init; }

    /// <summary>Lowest validation loss so far.</summary>
    public double? BestLoss { get; init; }

    /// <summary>Step of <see cref="BestLoss"/>.</summary>
    public long? BestStep { get; init; }

    /// <summary>Evaluations since then.</summary>
    public int EvaluationsWithoutImprovement { get; init; }

    /// <summary>Losses of the last steps, oldest first: what a spike is measured against.</summary>
    public IReadOnlyList<double> RecentLosses { get; init; } = [];

    /// <summary>The settings of the run; a run with others must not go on from here unnoticed.</summary>
    public JsonObject? Recipe { get; init; }

    internal static JsonSerializerOptions Json { get; } = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
    };
}
