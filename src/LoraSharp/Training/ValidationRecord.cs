using LoraSharp.Training.Checkpoints;

namespace LoraSharp.Training;

/// <summary>The best validation loss so far and how long ago it was.</summary>
internal sealed class ValidationRecord(TrainerOptions options)
{
    public double? BestLoss { get; private set; }

    public long? BestStep { get; private set; }

    public double? LastLoss { get; private set; }

    public long LastStep { get; private set; } = -1;

    public int WithoutImprovement { get; private set; }

    public bool ShouldStop => options.EarlyStoppingPatience > 0 && WithoutImprovement >= options.EarlyStoppingPatience;

    /// <summary>Takes an evaluation in.</summary>
    /// <returns>Whether it is the best so far.</returns>
    public bool Add(long step, double loss)
    {
        // A second look at the same step is no further evaluation without improvement.
        bool again = LastStep == step;
        LastLoss = loss;
        LastStep = step;
        if (BestLoss is not { } best || loss < best - options.EarlyStoppingMinDelta)
        {
            BestLoss = loss;
            BestStep = step;
            WithoutImprovement = 0;
            return true;
        }

        WithoutImprovement += again ? 0 : 1;
        return false;
    }

    public void Restore(TrainingState state)
    {
        BestLoss = state.BestLoss;
        BestStep = state.BestStep;
        LastLoss = state.EvalLoss;
        LastStep = state.EvalStep ?? -1;
        WithoutImprovement = state.EvaluationsWithoutImprovement;
    }
}
