using System.Globalization;
using LoraSharp.Recipes;

namespace LoraSharp;

/// <summary>Whether a run is long enough to learn something, and what to change where it is not.</summary>
internal static class RunLength
{
    // With a rate of 2e-4, small models have taken on a manner of answering after some hundred updates and hardly any before thirty.
    private const long Enough = 100;
    private const long TooFew = 50;
    private const long MostEpochs = 20;

    /// <summary>A note for the user; null where there is nothing to say.</summary>
    /// <param name="training">Settings of the run.</param>
    /// <param name="steps">Optimizer steps in all.</param>
    /// <param name="warmup">Of these with a rising learning rate.</param>
    public static string? Note(TrainingRecipe training, long steps, long warmup)
    {
        // Whoever sets the number of steps knows it.
        if (training.MaxSteps == 0 && steps < TooFew && Suggestion(training, steps) is { } longer)
        {
            return $"{steps} steps are few to learn from{(warmup > 0 ? $", and {Math.Min(warmup, steps)} of them are warm-up" : "")}. For so few rows: {longer}.";
        }

        return warmup < steps
            ? null
            : string.Create(CultureInfo.InvariantCulture, $"the warm-up of {warmup} steps is not over when the run's {steps} are, so the learning rate never reaches {training.LearningRate}; training.warmup_steps: {steps / 10} would do.");
    }

    private static string? Suggestion(TrainingRecipe training, long steps)
    {
        long epochs = Math.Max(1, (long)Math.Ceiling((double)training.Epochs));
        long updates = Math.Max(1, steps * training.GradientAccumulation / epochs);
        long passes = Math.Clamp((Enough + updates - 1) / updates, epochs, Math.Max(epochs, MostEpochs));
        long longer = updates * passes;
        return longer <= steps ? null : $"--gradient-accumulation 1 --epochs {passes} --warmup-steps {Math.Min(training.WarmupSteps, Math.Max(1, longer / 20))} (about {longer} steps)";
    }
}
