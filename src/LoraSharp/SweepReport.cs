using LoraSharp.Training.Sweeps;

namespace LoraSharp;

/// <summary>A trial of a sweep and how it did.</summary>
/// <param name="Training">Losses and parameters.</param>
/// <param name="Time">Of its training; where several trained side by side, its share of their time.</param>
/// <param name="Test">On the test rows; null where there are none or it failed.</param>
public sealed record TrialReport(TrialResult Training, TimeSpan Time, TestScores? Test)
{
    /// <summary>The trial.</summary>
    public SweepTrial Trial => Training.Trial;
}

/// <summary>What came of a sweep.</summary>
/// <param name="Folder">Where everything lies.</param>
/// <param name="Trials">In the order of the grid, full fine-tunings last.</param>
/// <param name="Recommendation">Null when every adapter failed.</param>
/// <param name="Time">Of training and evaluation.</param>
/// <param name="IsValidated">Whether scores are validation losses; else they are training losses.</param>
public sealed record SweepReport(string Folder, IReadOnlyList<TrialReport> Trials, SweepRecommendation? Recommendation, TimeSpan Time, bool IsValidated);

/// <summary>Where a sweep is.</summary>
/// <param name="Trial">The trial that trains by itself; null while several train side by side.</param>
/// <param name="Done">Trials finished.</param>
/// <param name="Trials">Trials in all.</param>
/// <param name="Step">Step completed.</param>
/// <param name="Steps">Steps of each trial.</param>
/// <param name="Loss">Of the step; the mean over trials that train side by side.</param>
public sealed record SweepProgress(string? Trial, int Done, int Trials, long Step, long Steps, double Loss);
