using LoraSharp.Adapters;
using LoraSharp.Layers;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using LoraSharp.Training.Sweeps;

namespace LoraSharp;

/// <summary>Trains a trial by itself, as <see cref="FineTuneRun"/> would, on a model and rows that are there already.</summary>
/// <param name="recipe">What all trials share.</param>
/// <param name="data">The rows.</param>
/// <param name="batches">How they are put together.</param>
/// <param name="notes">Told why the fused step does not fit on a GPU.</param>
internal sealed class SingleTrial(Recipe recipe, TrainingData data, BatchOptions batches, Action<string>? notes)
{
    /// <summary>Trains; a trial's adapter stays on the model, selected.</summary>
    /// <param name="loaded">The base; for a full fine-tuning one whose weights train.</param>
    /// <param name="trial">What to train.</param>
    /// <param name="progress">Told of each step.</param>
    /// <param name="cancellation">Ends after the step it is in.</param>
    public TrialResult Run(LoadedModel loaded, SweepTrial trial, Action<StepCompleted>? progress, CancellationToken cancellation)
    {
        LoraAdapter? adapter = trial.Adapter is { } options ? loaded.Adapters.Create(options, trial.Training.Seed, trial.Name) : null;
        IReadOnlyList<NamedTensor> trainable = adapter is null ? [.. loaded.Model.Parameters.DistinctBy(p => p.Name)] : [.. adapter.Tensors];
        using IBatchSource source = data.Plan(batches);
        ITrainingObjective objective = new RecipeObjective(recipe, loaded, trial.Training, batches).LanguageModeling(adapter, notes);
        using var buffers = objective as IDisposable;
        var record = new TrialRecord(progress);
        using var trainer = new Trainer(
            new TrainingSetup { Objective = objective, Trainable = trainable, Batches = source, Validation = data.PlanValidation(batches), Observers = [record] },
            trial.Training);
        string? fault = null;
        try
        {
            trainer.Run(cancellation);
        }
        catch (TrainingDivergedException diverged)
        {
            fault = $"step {diverged.Step}: the loss or its gradient is no number";
        }

        return new TrialResult(trial, record.Parameters, record.Losses, record.EvalLosses, Stopped: false, fault);
    }

    private sealed class TrialRecord(Action<StepCompleted>? progress) : ITrainingObserver
    {
        public List<double> Losses { get; } = [];

        public SortedDictionary<long, double> EvalLosses { get; } = [];

        public long Parameters { get; private set; }

        public void On(TrainingEvent happened)
        {
            switch (happened)
            {
                case TrainingStarted started:
                    Parameters = started.TrainableParameters;
                    break;
                case StepCompleted step:
                    Losses.Add(step.Loss);
                    progress?.Invoke(step);
                    break;
                case Evaluated evaluated:
                    EvalLosses[evaluated.Step] = evaluated.Loss;
                    break;
            }
        }
    }
}
