using LoraSharp.Training;

namespace LoraSharp;

/// <summary>What came of a run.</summary>
/// <param name="Training">Steps, losses, how it ended.</param>
/// <param name="Folder">The run folder.</param>
/// <param name="TrainedParameters">How many numbers were trained.</param>
/// <param name="Complete">False when it was interrupted: starting it again goes on.</param>
public sealed record FineTuneResult(TrainingResult Training, string Folder, long TrainedParameters, bool Complete)
{
    /// <summary>Largest resident memory of the process so far, bytes.</summary>
    public long PeakMemory { get; init; }

    /// <summary>Formats of the training rows, as they were read; empty for a source of one's own.</summary>
    public IReadOnlyList<string> Formats { get; init; } = [];
}
