using LoraSharp.Adapters;

namespace LoraSharp.Training.Sweeps;

/// <summary>One adapter of a sweep.</summary>
/// <param name="Name">Unique; also the adapter's name.</param>
/// <param name="Adapter">Rank, alpha, targets, variant.</param>
/// <param name="Training">Learning rate, schedule and the rest; steps are the same for all.</param>
public sealed record SweepTrial(string Name, LoraOptions Adapter, TrainerOptions Training);

/// <summary>How a trial came out.</summary>
/// <param name="Trial">The trial.</param>
/// <param name="TrainableParameters">Its trained values.</param>
/// <param name="Losses">Training loss of each step it made.</param>
/// <param name="EvalLosses">Validation loss by step.</param>
/// <param name="Stopped">True when halving took it out before the end.</param>
/// <param name="Fault">Why it ended before the others (a loss that was no number); null normally.</param>
public sealed record TrialResult(SweepTrial Trial, long TrainableParameters, IReadOnlyList<double> Losses, IReadOnlyDictionary<long, double> EvalLosses, bool Stopped, string? Fault)
{
    /// <summary>What trials are ranked by: the last validation loss, or without validation the mean of the last training losses.</summary>
    public double Score => Fault is not null ? double.PositiveInfinity
        : EvalLosses.Count > 0 ? EvalLosses[EvalLosses.Keys.Max()]
        : Losses.Count > 0 ? Losses.TakeLast(20).Average() : double.PositiveInfinity;
}
