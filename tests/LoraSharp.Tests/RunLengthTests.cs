using LoraSharp.Recipes;

namespace LoraSharp.Tests;

public sealed class RunLengthTests
{
    [Fact]
    public void Sixty_rows_by_the_defaults_are_told_what_would_make_enough_steps_of_them()
    {
        // 54 rows of 4 × 4 are 4 steps an epoch.
        string? note = RunLength.Note(new TrainingRecipe(), steps: 12, warmup: 10);

        Assert.Equal("12 steps are few to learn from, and 10 of them are warm-up. For so few rows: --gradient-accumulation 1 --epochs 7 --warmup-steps 5 (about 112 steps).", note);
    }

    [Fact]
    public void A_handful_of_rows_is_not_told_to_go_round_for_ever()
    {
        string? note = RunLength.Note(new TrainingRecipe { Epochs = 1, BatchSize = 1, GradientAccumulation = 1, WarmupSteps = 0 }, steps: 3, warmup: 0);

        Assert.Equal("3 steps are few to learn from. For so few rows: --gradient-accumulation 1 --epochs 20 --warmup-steps 0 (about 60 steps).", note);
    }

    [Fact]
    public void Steps_that_were_asked_for_are_only_told_an_unfinished_warm_up()
    {
        Assert.Null(RunLength.Note(new TrainingRecipe { MaxSteps = 12 }, steps: 12, warmup: 10));
        Assert.Equal(
            "the warm-up of 12 steps is not over when the run's 12 are, so the learning rate never reaches 0.0002; training.warmup_steps: 1 would do.",
            RunLength.Note(new TrainingRecipe { MaxSteps = 12 }, steps: 12, warmup: 12));
    }

    [Fact]
    public void A_long_run_is_told_nothing() => Assert.Null(RunLength.Note(new TrainingRecipe(), steps: 50, warmup: 10));
}
