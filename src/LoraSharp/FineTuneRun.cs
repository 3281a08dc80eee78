using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Threading.Channels;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Layers;
using LoraSharp.Recipes;
using LoraSharp.Tensors.Interop;
using LoraSharp.Training;
using LoraSharp.Training.Checkpoints;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using LoraSharp.Training.Rewards;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>
/// The main path: a recipe becomes a run folder with the adapter (or the full checkpoint), a model card, the resolved
/// recipe, metrics, a plot of the loss and checkpoints. A run that was cut off goes on when it is started again.
/// </summary>
public sealed class FineTuneRun
{
    private readonly Recipe _recipe;
    private readonly TimeProvider _clock;

    /// <summary>Prepares a run.</summary>
    /// <param name="recipe">All settings.</param>
    /// <param name="recipeFolder">Relative paths that do not exist from the working folder are looked up here; null for none.</param>
    /// <param name="clock">For speed, and the date in the model card.</param>
    public FineTuneRun(Recipe recipe, string? recipeFolder = null, TimeProvider? clock = null)
    {
        _recipe = recipe;
        Settings = new RecipeSettings(recipe, recipeFolder);
        _clock = clock ?? TimeProvider.System;
    }

    /// <summary>The recipe as options of what it runs.</summary>
    public RecipeSettings Settings { get; }

    /// <summary>Judges sampled completions: when given, the run learns from rewards (GRPO) with the recipe's other <c>grpo</c> settings. Null: as the recipe says.</summary>
    public TextReward? Reward { get; init; }

    /// <summary>
    /// What is minimised, over the model with the adapter selected; the noise is what the recipe makes random (dropout, NEFTune).
    /// Null: as the recipe and the kind of its rows say.
    /// </summary>
    public Func<LoadedModel, TrainerOptions, ITrainingNoise, ITrainingObjective>? Objective { get; init; }

    /// <summary>Where micro-batches come from; disposed with the run. Null: the recipe's data. The recipe's validation is not read then.</summary>
    public Func<LoadedModel, IBatchSource>? Source { get; init; }

    /// <summary>Gives the validation rows anew for each evaluation, where <see cref="Source"/> is given. Null for none.</summary>
    public Func<LoadedModel, IEnumerable<MicroBatch>>? SourceValidation { get; init; }

    /// <summary>A model that is there already and that others use too; its base is trained on, whatever the recipe says of type and device. Null: the recipe's, loaded for this run alone.</summary>
    public LoadedModel? SharedModel { get; init; }

    /// <summary>Called between two micro-batches; see <see cref="TrainingSetup.BetweenPasses"/>.</summary>
    public Action? BetweenPasses { get; init; }

    /// <summary>Loads, trains, writes.</summary>
    /// <param name="observers">Hear of every step.</param>
    /// <param name="notes">Told what a user should know: rows that were cut, layers that are adapted, warnings.</param>
    /// <param name="cancellation">Ends the run after the step it is in, with a checkpoint.</param>
    /// <exception cref="LoraSharpException">Faulty settings, data or model; a loss that is no number; an output folder that is in use.</exception>
    public FineTuneResult Execute(IReadOnlyList<ITrainingObserver>? observers = null, Action<string>? notes = null, CancellationToken cancellation = default)
    {
        notes ??= _ => { };
        if (_recipe.Data.Train.Count == 0 && Source is null)
        {
            throw new LoraSharpException("data.train is missing: give a file, a folder or a list of them.");
        }

        if (_recipe.Training.ReuseMemory)
        {
            HostAllocator.KeepBlocks();
        }
        else
        {
            HostAllocator.ReturnLargeBlocks();
        }

        var folder = new RunFolder(_recipe.Output);
        folder.Claim(_recipe);
        bool full = _recipe.Method == "full";
        if (full && SharedModel is not null)
        {
            throw new LoraSharpException("method: full changes the base itself, which others use. Expected lora or qlora.");
        }

        using LoadedModel? own = SharedModel is null ? EngineSetup.Load(Settings.Engine(full)) : null;
        LoadedModel loaded = own ?? SharedModel!;
        using var removed = new RemoveTrained(SharedModel?.Adapters);
        var adapter = new RunAdapter(_recipe, Settings.Resolve);
        bool fromData = !full && adapter.NeedsData;
        IReadOnlyList<NamedTensor> trainable = full ? [.. loaded.Model.Parameters.DistinctBy(p => p.Name)] : fromData ? [] : adapter.Make(loaded, notes);
        using TrainingData? data = Source is null ? TrainingData.Load(Settings.Data() with { VocabularySize = loaded.Model.Config.VocabularySize }, loaded.TokenizerOrNull, loaded.ChatRenderer, cancellation: cancellation) : null;
        foreach (SourceReport read in data?.Report.Sources ?? [])
        {
            notes(read.ToString());
        }

        foreach (string warning in data?.Report.Warnings() ?? [])
        {
            notes(warning);
        }

        BatchOptions batches = Settings.Batches(loaded, data, LearnsFromRewards);
        if (fromData)
        {
            trainable = adapter.MakeFromData(loaded, () => Source?.Invoke(loaded) ?? data!.Plan(batches), new CheckpointStore(folder.Checkpoints, _recipe.Training.KeepLast), notes, cancellation);
        }

        using IBatchSource source = Repeated(Source?.Invoke(loaded) ?? data!.Plan(batches));
        TrainerOptions options = Settings.Options(source);
        ITrainingObjective objective = ObjectiveOf(loaded, data, options, batches, folder, notes);
        using var buffers = objective as IDisposable;
        using var metrics = new MetricsFile(folder.Metrics);
        using TensorBoardEvents? board = _recipe.Report.Tensorboard ? new TensorBoardEvents(folder.TensorBoard, _clock) : null;
        using var telemetry = new TrainingTelemetry([new("lorasharp.run", Path.GetFileName(folder.Path)), new("lorasharp.model", _recipe.Model), new("lorasharp.method", _recipe.Method)], _clock);
        var curve = new LossCurve(folder.Metrics);
        using var trainer = new Trainer(
            new TrainingSetup
            {
                Objective = objective,
                Trainable = trainable,
                MustLearn = full ? null : name => !name.Contains(".experts.", StringComparison.Ordinal),
                Batches = source,
                Validation = data is not null ? data.PlanValidation(batches) : SourceValidation is { } rows ? () => rows(loaded) : null,
                Observers = [metrics, curve, .. board is null ? Array.Empty<ITrainingObserver>() : [board], telemetry, .. observers ?? []],
                Checkpoints = new CheckpointStore(folder.Checkpoints, _recipe.Training.KeepLast),
                WriteModel = full ? null : target => TrainedModelWriter.Write(loaded, target, full),
                Recipe = Settings.Fingerprint(),
                Clock = _clock,
                BetweenPasses = BetweenPasses,
            },
            options);
        if (RunLength.Note(_recipe.Training, trainer.TotalSteps, options.CreateSchedule(trainer.TotalSteps).WarmupSteps) is { } note)
        {
            notes(note);
        }

        TrainingResult result = trainer.Run(cancellation);
        curve.Draw(folder.Plot, $"{Path.GetFileName(Path.TrimEndingDirectorySeparator(_recipe.Model))}, {_recipe.Method}", objective.IsLikelihood);
        long parameters = trainable.Sum(t => t.Value.NumberOfElements);
        long peak = PeakMemory();
        if (result.End == TrainingEnd.Interrupted)
        {
            return new FineTuneResult(result, folder.Path, parameters, Complete: false) { PeakMemory = peak };
        }

        TrainedModelWriter.Write(loaded, folder.Path, full);
        AtomicFile.WriteText(folder.Card, new ModelCard
        {
            Recipe = _recipe,
            Config = loaded.Source.Config,
            Data = data?.Report,
            Size = data is null ? null : (data.Train.Count, Enumerable.Range(0, data.Train.Count).Sum(i => (long)data.Train.Length(i))),
            Result = result,
            Parameters = parameters,
            FirstLoss = curve.FirstLoss,
            LastMetrics = curve.LastMetrics,
            IsLikelihood = objective.IsLikelihood,
            Device = loaded.Model.Device.ToString(),
            DType = loaded.Model.DType == ScalarType.BFloat16 ? "bfloat16" : "float32",
            PeakMemory = peak,
            Date = _clock.GetUtcNow(),
        }.ToMarkdown());
        folder.Complete();
        return new FineTuneResult(result, folder.Path, parameters, Complete: true) { PeakMemory = peak, Formats = [.. data?.Report.Sources.Select(s => s.Format).Distinct() ?? []] };
    }

    /// <summary>
    /// The same as a stream: trains on a thread of its own and gives each event as it happens. Cancelling, or leaving the loop
    /// early, ends the run after the step it is in, with a checkpoint; a run that fails throws out of the loop.
    /// </summary>
    /// <param name="notes">Told what a user should know; called on the training thread.</param>
    /// <param name="cancellation">Ends the run; the last event is then a <see cref="TrainingEnded"/> that says how to go on.</param>
    public async IAsyncEnumerable<TrainingEvent> StreamAsync(Action<string>? notes = null, [EnumeratorCancellation] CancellationToken cancellation = default)
    {
        var events = Channel.CreateUnbounded<TrainingEvent>(new UnboundedChannelOptions { SingleReader = true, SingleWriter = true });
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        // Tensors stay on one thread; the events that leave it hold numbers and texts only.
        Task run = Task.Factory.StartNew(
            () =>
            {
                try
                {
                    Execute([new EventWriter(events.Writer)], notes, stop.Token);
                }
                finally
                {
                    events.Writer.Complete();
                }
            },
            CancellationToken.None,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default);
        try
        {
            await foreach (TrainingEvent happened in events.Reader.ReadAllAsync(CancellationToken.None).ConfigureAwait(false))
            {
                yield return happened;
            }
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
            await run.ConfigureAwait(false);
        }
    }

    private static long PeakMemory()
    {
        using var process = Process.GetCurrentProcess();
        return process.PeakWorkingSet64;
    }

    // Of rewards each sample may be learned from several times.
    private IBatchSource Repeated(IBatchSource source) => LearnsFromRewards && _recipe.Grpo.Iterations > 1 ? new RepeatedSteps(source, _recipe.Grpo.Iterations) : source;

    private bool LearnsFromRewards => Reward is not null || _recipe.Grpo.Reward != "none";

    private ITrainingObjective ObjectiveOf(LoadedModel loaded, TrainingData? data, TrainerOptions options, BatchOptions batches, RunFolder folder, Action<string> notes)
    {
        var told = new RecipeObjective(_recipe, loaded, options, batches);
        return Objective is { } own ? own(loaded, options, told.Noise()) : told.Create(data, Reward, folder.Reference, notes);
    }

    // A shared model is left as it was found.
    private sealed class RemoveTrained(AdapterSet? shared) : IDisposable
    {
        public void Dispose()
        {
            if (shared?.Adapters.ContainsKey(AdapterSet.DefaultName) == true)
            {
                shared.Remove(AdapterSet.DefaultName);
            }
        }
    }
}
