namespace LoraSharp.Training;

/// <summary>Something that happened in a run, in the order in which it happens.</summary>
/// <param name="Step">Optimizer steps completed so far.</param>
public abstract record TrainingEvent(long Step);

/// <summary>The run begins, or goes on.</summary>
/// <param name="Step">0, or the step it goes on from.</param>
/// <param name="TotalSteps">Optimizer steps of the whole run.</param>
/// <param name="TrainableParameters">Number of trained values.</param>
/// <param name="ResumedFrom">The checkpoint it goes on from; null at the start.</param>
public sealed record TrainingStarted(long Step, long TotalSteps, long TrainableParameters, string? ResumedFrom) : TrainingEvent(Step)
{
    /// <summary>The step of the last evaluation that the checkpoint knows of; -1 for none. A later one will be made again.</summary>
    public long EvaluatedStep { get; init; } = -1;
}

/// <summary>An optimizer step is done.</summary>
public sealed record StepCompleted(long Step) : TrainingEvent(Step)
{
    /// <summary>Optimizer steps of the whole run.</summary>
    public required long TotalSteps { get; init; }

    /// <summary>Mean over all supervised tokens of the step.</summary>
    public required double Loss { get; init; }

    /// <summary>Global norm of the gradient before clipping.</summary>
    public required double GradNorm { get; init; }

    /// <summary>Learning rate this step was made with.</summary>
    public required double LearningRate { get; init; }

    /// <summary>Tokens of the step that are not padding.</summary>
    public required long Tokens { get; init; }

    /// <summary>Those of the step divided by its seconds.</summary>
    public required double TokensPerSecond { get; init; }

    /// <summary>Passes over the data so far.</summary>
    public required double Epoch { get; init; }

    /// <summary>Time left at the recent speed.</summary>
    public required TimeSpan Remaining { get; init; }

    /// <summary>More numbers of the objective, e.g. <c>rewards/margins</c>.</summary>
    public IReadOnlyDictionary<string, double> Metrics { get; init; } = new Dictionary<string, double>();
}

/// <summary>The validation rows were evaluated.</summary>
/// <param name="Step">After this step.</param>
/// <param name="Loss">Mean over supervised tokens, without smoothing; of other objectives the mean of their losses.</param>
/// <param name="IsBest">Lower than ever before.</param>
/// <param name="Metrics">More numbers, e.g. <c>accuracy</c>.</param>
public sealed record Evaluated(long Step, double Loss, bool IsBest, IReadOnlyDictionary<string, double> Metrics) : TrainingEvent(Step)
{
    /// <summary>Whether the loss is a mean −log p of tokens.</summary>
    public bool IsLikelihood { get; init; }

    /// <summary>exp(loss); null where the loss is no likelihood.</summary>
    public double? Perplexity => IsLikelihood ? Math.Exp(Loss) : null;
}

/// <summary>A loss far above the recent usual.</summary>
/// <param name="Step">The step.</param>
/// <param name="Loss">Its loss.</param>
/// <param name="Usual">Median of the steps before.</param>
/// <param name="Rows">Origins of the rows with the highest losses, worst first, each with its loss.</param>
public sealed record LossSpiked(long Step, double Loss, double Usual, IReadOnlyList<string> Rows) : TrainingEvent(Step);

/// <summary>A checkpoint is complete on disk.</summary>
/// <param name="Step">State after this step.</param>
/// <param name="Folder">Where.</param>
public sealed record CheckpointSaved(long Step, string Folder) : TrainingEvent(Step);

/// <summary>A checkpoint cannot be used; the one before is tried.</summary>
/// <param name="Step">Its step.</param>
/// <param name="Folder">Where.</param>
/// <param name="Reason">What is wrong with it.</param>
public sealed record CheckpointSkipped(long Step, string Folder, string Reason) : TrainingEvent(Step);

/// <summary>Why a run ended.</summary>
public enum TrainingEnd
{
    /// <summary>All steps are done.</summary>
    Completed,

    /// <summary>Validation has not improved for long enough.</summary>
    EarlyStopped,

    /// <summary>Cancelled; a checkpoint was saved and the same command goes on from it.</summary>
    Interrupted,
}

/// <summary>The run is over.</summary>
/// <param name="Step">Steps made.</param>
/// <param name="End">Why.</param>
/// <param name="Message">In words, with how to go on when it was interrupted.</param>
public sealed record TrainingEnded(long Step, TrainingEnd End, string Message) : TrainingEvent(Step);

/// <summary>Hears of everything in a run: progress on a console, metrics files, telemetry.</summary>
public interface ITrainingObserver
{
    /// <summary>Called on the training thread; keep it short.</summary>
    void On(TrainingEvent happened);
}
