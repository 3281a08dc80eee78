using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Recipes;
using LoraSharp.Tensors.Interop;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Fused;
using LoraSharp.Training.Sweeps;

namespace LoraSharp;

/// <summary>
/// Many adapters over one recipe: trained side by side on one frozen base, or one after the other where that is faster
/// (the fused GPU step), then every weight at equal steps if asked for. A folder with every adapter, a table, plots and
/// a recommendation.
/// </summary>
/// <param name="recipe">What all trials share, and in its <c>sweep</c> section what varies.</param>
/// <param name="recipeFolder">Relative paths are looked up here too; null for none.</param>
/// <param name="clock">For the seconds in the table; null for the system's.</param>
public sealed class SweepRun(Recipe recipe, string? recipeFolder = null, TimeProvider? clock = null)
{
    private readonly List<TrialReport> _done = [];
    private readonly RecipeSettings _settings = new(recipe, recipeFolder);
    private readonly TimeProvider _clock = clock ?? TimeProvider.System;
    private long _started;

    /// <summary>Trains, measures and writes.</summary>
    /// <param name="progress">Hears of each step.</param>
    /// <param name="notes">Told what a user should know.</param>
    /// <param name="cancellation">Ends after the step it is in; what there is then is written.</param>
    /// <exception cref="LoraSharpException">Faulty settings, data or model.</exception>
    public SweepReport Execute(Action<SweepProgress>? progress = null, Action<string>? notes = null, CancellationToken cancellation = default)
    {
        ThrowIfUnfit();
        _started = _clock.GetTimestamp();
        HostAllocator.KeepBlocks();
        var folder = new SweepFolder(recipe);
        using LoadedModel loaded = EngineSetup.Load(_settings.Engine(full: false));
        using TrainingData data = LoadData(loaded, notes, cancellation);
        using SweepTest? test = recipe.Sweep.Test is { } path ? SweepTest.Load(recipe.Sweep, _settings.Data(), _settings.Resolve(path), loaded) : null;
        BatchOptions batches = _settings.Batches(loaded, data, learnsFromRewards: false);
        TrainerOptions options = Options(data, batches);
        IReadOnlyList<SweepTrial> trials = SweepGrid.Trials(recipe.Sweep, _settings.Adapter(), recipe.Adapter.Targets, options);
        SweepTrial[] adapters = [.. trials.Where(t => !t.IsFull)];
        var context = new Context(folder, data, batches, options, test, trials.Count, progress, notes, cancellation);
        if (TrainsTogether(loaded, adapters[0], batches, options))
        {
            Together(context, loaded, adapters);
        }
        else
        {
            foreach (SweepTrial trial in adapters.TakeWhile(_ => !cancellation.IsCancellationRequested))
            {
                Alone(context, loaded, trial);
            }
        }

        // Training every weight needs the room.
        loaded.Dispose();
        foreach (SweepTrial trial in trials.Where(t => t.IsFull).TakeWhile(_ => !cancellation.IsCancellationRequested))
        {
            using LoadedModel fresh = EngineSetup.Load(_settings.Engine(full: true));
            Alone(context, fresh, trial);
        }

        SweepReport report = Report(context);
        folder.Draw(report);
        return report;
    }

    private void ThrowIfUnfit()
    {
        if (recipe.Method == "full")
        {
            throw new LoraSharpException("method is full: a sweep is over adapters that share a frozen base. Use lora or qlora; sweep.full_learning_rates adds full fine-tuning to compare with.");
        }

        if (recipe.Preference.Loss != "none" || recipe.Grpo.Reward != "none")
        {
            throw new LoraSharpException($"{(recipe.Grpo.Reward != "none" ? $"grpo.reward is {recipe.Grpo.Reward}" : $"preference.loss is {recipe.Preference.Loss}")}: a sweep trains on the likelihood of completions only. Leave it out.");
        }

        if (recipe.Adapter.InitFrom is { } from)
        {
            throw new LoraSharpException($"adapter.init_from is {from}: the trials of a sweep are new adapters. Leave it out.");
        }

        if (recipe.Sweep is { Mode: "single", HalveEvery: > 0 })
        {
            throw new LoraSharpException("sweep.halve_every needs trials that train side by side, but sweep.mode is single. Leave one of them out.");
        }
    }

    private TrainingData LoadData(LoadedModel loaded, Action<string>? notes, CancellationToken cancellation)
    {
        TrainingData data = TrainingData.Load(_settings.Data() with { VocabularySize = loaded.Model.Config.VocabularySize }, loaded.TokenizerOrNull, loaded.ChatRenderer, cancellation: cancellation);
        foreach (string warning in data.Report.Warnings())
        {
            notes?.Invoke(warning);
        }

        if (data.Kind != ExampleKind.Plain)
        {
            data.Dispose();
            throw new LoraSharpException($"The rows are of the kind {data.Kind}. A sweep trains on texts, conversations or prompts with completions.");
        }

        return data;
    }

    // Trials share a schedule, so its length is settled before they begin.
    private TrainerOptions Options(TrainingData data, BatchOptions batches)
    {
        using IBatchSource source = data.Plan(batches);
        TrainerOptions options = _settings.Options(source);
        return options.MaxSteps > 0 ? options : options with { MaxSteps = source.TotalSteps ?? (long)Math.Ceiling(options.Epochs * (source.StepsPerEpoch ?? 1)) };
    }

    // The fused step keeps a GPU busy with one adapter; everything else gains by sharing the base's products.
    private bool TrainsTogether(LoadedModel loaded, SweepTrial first, BatchOptions batches, TrainerOptions options)
    {
        if (recipe.Sweep.Mode != "auto" || recipe.Sweep.HalveEvery > 0)
        {
            return recipe.Sweep.Mode != "single";
        }

        if (recipe.Training.FusedStep != "auto" || loaded.Model.Device.type != TorchSharp.DeviceType.CUDA)
        {
            return true;
        }

        LoraAdapter probe = loaded.Adapters.Create(first.Adapter!, options.Seed, first.Name);
        bool fits = FusedObjective.Obstacle(loaded.Model, probe, options, batches.PadToMaxLength ? batches.MaxLength : null) is null;
        loaded.Adapters.Remove(first.Name);
        return !fits;
    }

    private void Together(Context context, LoadedModel loaded, IReadOnlyList<SweepTrial> trials)
    {
        var options = new SweepOptions
        {
            Steps = context.Options.MaxSteps,
            AtOnce = recipe.Sweep.AtOnce,
            EvalInterval = context.Options.EvalInterval,
            HalveEvery = recipe.Sweep.HalveEvery,
        };
        long started = _clock.GetTimestamp();
        IReadOnlyList<TrialResult> results;
        using (var trainer = new SideBySideTrainer(loaded.Model, loaded.Adapters, trials, options))
        using (IBatchSource source = context.Data.Plan(context.Batches))
        {
            results = trainer.Run(
                source,
                context.Data.PlanValidation(context.Batches),
                (step, loss) => context.Progress?.Invoke(new SweepProgress(null, 0, context.Trials, step, options.Steps, loss)),
                context.Cancellation);
        }

        TimeSpan time = _clock.GetElapsedTime(started);
        double steps = Math.Max(1, results.Sum(r => r.Losses.Count));
        foreach (TrialResult result in results)
        {
            Finish(context, loaded, result, time * (result.Losses.Count / steps));
        }
    }

    private void Alone(Context context, LoadedModel loaded, SweepTrial trial)
    {
        long started = _clock.GetTimestamp();
        TrialResult result = new SingleTrial(recipe, context.Data, context.Batches, context.Notes).Run(
            loaded,
            trial,
            step => context.Progress?.Invoke(new SweepProgress(trial.Name, _done.Count, context.Trials, step.Step, step.TotalSteps, step.Loss)),
            context.Cancellation);
        Finish(context, loaded, result, _clock.GetElapsedTime(started));
    }

    // Writes the adapter, measures it and adds it to the results; a full fine-tuning is measured only.
    private void Finish(Context context, LoadedModel loaded, TrialResult result, TimeSpan time)
    {
        SweepTrial trial = result.Trial;
        bool trained = result.Fault is null && result.Losses.Count > 0;
        _done.Add(new TrialReport(result, time, null));
        Report(context);
        if (!trial.IsFull)
        {
            AdapterWriter.Write(loaded.Adapters[trial.Name], context.Folder.Adapter(trial), loaded.Adapters.Base);
            loaded.Adapters.Select(trial.Name);
        }

        if (trained && context.Test is { } test && !context.Cancellation.IsCancellationRequested)
        {
            _done[^1] = _done[^1] with { Test = test.Measure(loaded) };
            Report(context);
        }

        if (!trial.IsFull)
        {
            loaded.Adapters.Remove(trial.Name);
        }
    }

    private SweepReport Report(Context context)
    {
        SweepReport report = new(context.Folder.Path, [.. _done], SweepRecommendation.From([.. _done.Select(d => d.Training)]), _clock.GetElapsedTime(_started), context.Data.Validation is not null);
        context.Folder.Write(report);
        return report;
    }

    private sealed record Context(
        SweepFolder Folder,
        TrainingData Data,
        BatchOptions Batches,
        TrainerOptions Options,
        SweepTest? Test,
        int Trials,
        Action<SweepProgress>? Progress,
        Action<string>? Notes,
        CancellationToken Cancellation);
}
