using LoraSharp.Formats;

namespace LoraSharp.Training;

/// <summary>The loss or its gradient is no number any more. The weights are those of before the step.</summary>
public sealed class TrainingDivergedException : LoraSharpException
{
    internal TrainingDivergedException(long step, double loss, double gradNorm, IReadOnlyList<string> rows, string? checkpoint)
        : base(Describe(step, loss, gradNorm, rows, checkpoint))
    {
        Step = step;
        Rows = rows;
    }

    /// <summary>The optimizer step that failed, from 1.</summary>
    public long Step { get; }

    /// <summary>Origins of the rows with the highest losses.</summary>
    public IReadOnlyList<string> Rows { get; }

    private static string Describe(long step, double loss, double gradNorm, IReadOnlyList<string> rows, string? checkpoint) =>
        FormattableString.Invariant($"Step {step}: the loss is {loss} and the norm of its gradient {gradNorm}, expected numbers. Rows with the highest losses: ")
        + (rows.Count == 0 ? "none" : string.Join("; ", rows))
        + ". The step was not made"
        + (checkpoint is null ? string.Empty : $", the last good checkpoint is {checkpoint}")
        + ". Try a lower learning rate or a longer warm-up, or look at these rows.";
}
