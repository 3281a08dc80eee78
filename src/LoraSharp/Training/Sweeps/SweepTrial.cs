using LoraSharp.Adapters;

namespace LoraSharp.Training.Sweeps;

/// <summary>One training of a sweep.</summary>
/// <param name="Name">Unique; also the adapter's name.</param>
/// <param name="Adapter">Rank, alpha, targets, variant; null when every weight trains (the ceiling).</param>
/// <param name="Training">Learning rate, schedule and the rest; steps are the same for all.</param>
public sealed record SweepTrial(string Name, LoraOptions? Adapter, TrainerOptions Training)
{
    /// <summary>The targets as a person wrote them, for tables.</summary>
    public string Targets { get; init; } = string.Empty;

    /// <summary><c>lora</c>, <c>rslora</c>, <c>dora</c>, <c>loraplus</c>, <c>pissa</c>, <c>olora</c> or <c>full</c>.</summary>
    public string Variant { get; init; } = "lora";

    /// <summary>Whether every weight trains.</summary>
    public bool IsFull => Adapter is null;
}

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
