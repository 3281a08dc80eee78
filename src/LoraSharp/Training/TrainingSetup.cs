using System.Text.Json.Nodes;
using LoraSharp.Layers;
using LoraSharp.Training.Checkpoints;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;

namespace LoraSharp.Training;

/// <summary>What a <see cref="Trainer"/> works with; nothing of it is owned by the trainer.</summary>
public sealed record TrainingSetup
{
    /// <summary>What is minimised, over which model.</summary>
    public required ITrainingObjective Objective { get; init; }

    /// <summary>The tensors that are trained, each with <c>requires_grad</c>: an adapter's, or all of the model's.</summary>
    public required IReadOnlyList<NamedTensor> Trainable { get; init; }

    /// <summary>
    /// Says of a tensor whether every step must give it a gradient, which the first one is checked for; null checks
    /// nothing. An expert to which no token was sent may rest.
    /// </summary>
    public Func<string, bool>? MustLearn { get; init; }

    /// <summary>The rows.</summary>
    public required IBatchSource Batches { get; init; }

    /// <summary>Gives the validation rows anew for each evaluation; null for none.</summary>
    public Func<IEnumerable<MicroBatch>>? Validation { get; init; }

    /// <summary>Who hears of what happens.</summary>
    public IReadOnlyList<ITrainingObserver> Observers { get; init; } = [];

    /// <summary>Where checkpoints go, and where a run goes on from; null for none.</summary>
    public CheckpointStore? Checkpoints { get; init; }

    /// <summary>Writes the adapter (or model) as users load it into a checkpoint's folder, beside what resuming needs.</summary>
    public Action<string>? WriteModel { get; init; }

    /// <summary>The settings of the run: a checkpoint made with others is not gone on from.</summary>
    public JsonObject? Recipe { get; init; }

    /// <summary>Called between two micro-batches, so that a run can let others have the model for a while; null for nothing.</summary>
    public Action? BetweenPasses { get; init; }

    /// <summary>For tokens a second.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;
}

/// <summary>How a run came out.</summary>
/// <param name="Steps">Optimizer steps made, all sittings together.</param>
/// <param name="End">Why it ended.</param>
/// <param name="Loss">Mean training loss of the last steps (at most 20).</param>
/// <param name="EvalLoss">Loss of the last evaluation; null without validation.</param>
/// <param name="BestLoss">Lowest validation loss.</param>
/// <param name="BestStep">Its step.</param>
/// <param name="Checkpoint">The last checkpoint; null without a store.</param>
public sealed record TrainingResult(long Steps, TrainingEnd End, double Loss, double? EvalLoss, double? BestLoss, long? BestStep, string? Checkpoint);
