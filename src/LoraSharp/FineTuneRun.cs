using System.Diagnostics;
using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text.Json.Nodes;
using System.Threading.Channels;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Quantization;
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
    private readonly string? _recipeFolder;
    private readonly TimeProvider _clock;

    /// <summary>Prepares a run.</summary>
    /// <param name="recipe">All settings.</param>
    /// <param name="recipeFolder">Relative paths that do not exist from the working folder are looked up here; null for none.</param>
    /// <param name="clock">For speed, and the date in the model card.</param>
    public FineTuneRun(Recipe recipe, string? recipeFolder = null, TimeProvider? clock = null)
    {
        _recipe = recipe;
        _recipeFolder = recipeFolder;
        _clock = clock ?? TimeProvider.System;
    }

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

        using LoadedModel? own = SharedModel is null ? EngineSetup.Load(Engine(full)) : null;
        LoadedModel loaded = own ?? SharedModel!;
        using var removed = new RemoveTrained(SharedModel?.Adapters);
        var adapter = new RunAdapter(_recipe, Resolve);
        bool fromData = !full && adapter.NeedsData;
        IReadOnlyList<NamedTensor> trainable = full ? [.. loaded.Model.Parameters.DistinctBy(p => p.Name)] : fromData ? [] : adapter.Make(loaded, notes);
        using TrainingData? data = Source is null ? TrainingData.Load(Data() with { VocabularySize = loaded.Model.Config.VocabularySize }, loaded.TokenizerOrNull, loaded.ChatRenderer, cancellation: cancellation) : null;
        foreach (SourceReport read in data?.Report.Sources ?? [])
        {
            notes($"{read.Path}: {read.Rows} rows, read as {read.Format}.");
        }

        foreach (string warning in data?.Report.Warnings() ?? [])
        {
            notes(warning);
        }

        BatchOptions batches = Batches(loaded, data);
        if (fromData)
        {
            trainable = adapter.MakeFromData(loaded, () => Source?.Invoke(loaded) ?? Planner(data!, batches), new CheckpointStore(folder.Checkpoints, _recipe.Training.KeepLast), notes, cancellation);
        }

        using IBatchSource source = Repeated(Source?.Invoke(loaded) ?? Planner(data!, batches));
        TrainerOptions options = Options(source);
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
                Validation = data is not null ? Validation(data, batches) : SourceValidation is { } rows ? () => rows(loaded) : null,
                Observers = [metrics, curve, .. board is null ? Array.Empty<ITrainingObserver>() : [board], telemetry, .. observers ?? []],
                Checkpoints = new CheckpointStore(folder.Checkpoints, _recipe.Training.KeepLast),
                WriteModel = full ? null : target => TrainedModelWriter.Write(loaded, target, full),
                Recipe = Fingerprint(),
                Clock = _clock,
                BetweenPasses = BetweenPasses,
            },
            options);
        if (options.CreateSchedule(trainer.TotalSteps).WarmupSteps >= trainer.TotalSteps)
        {
            notes($"the warm-up of {_recipe.Training.WarmupSteps} steps is not over when the run's {trainer.TotalSteps} are, so the learning rate never reaches {_recipe.Training.LearningRate}; training.warmup_steps: {trainer.TotalSteps / 10} would do.");
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

    internal EngineOptions Engine(bool full)
    {
        Device device = EngineSetup.FindDevice(_recipe.Device);
        return new EngineOptions
        {
            Model = Resolve(_recipe.Model),
            DType = _recipe.Dtype == "auto" ? device.type == TorchSharp.DeviceType.CPU ? "float32" : "bfloat16" : _recipe.Dtype,
            Device = _recipe.Device,
            ModelType = _recipe.ModelType,
            AcceptOtherBases = _recipe.Adapter.AnyBase,
            TrainBase = full,
            Quantization = _recipe.Method == "qlora"
                ? new QuantizationOptions
                {
                    Type = _recipe.Quantization.Type == "fp4" ? FourBitType.Fp4 : FourBitType.Nf4,
                    DoubleQuantization = _recipe.Quantization.Double,
                    BlockSize = _recipe.Quantization.BlockSize,
                    SkipModules = _recipe.Quantization.SkipModules,
                }
                : null,
        };
    }

    /// <summary>The adapter that the recipe asks for.</summary>
    internal LoraOptions Adapter() => new RunAdapter(_recipe, Resolve).Options();

    internal static ModuleSelector Selector(NameSet names) => names.Single is { } text ? ModuleSelector.Parse(text) : ModuleSelector.List(names.Names);

    /// <summary>The base model as the recipe names it, found beside the recipe where it is not in the working folder.</summary>
    public string Model => Resolve(_recipe.Model);

    /// <summary>What the recipe says about data: which rows, and how they become tokens.</summary>
    public DataOptions Data()
    {
        DataRecipe d = _recipe.Data;
        return new DataOptions
        {
            Train = [.. d.Train.Select(s => new DataSource { Path = Resolve(s.Path), Weight = s.Weight, Format = s.Format is null ? null : Format(s.Format), Columns = s.Columns, MaxSamples = s.MaxSamples })],
            Validation = ValidationSource.Parse(double.TryParse(d.Validation, NumberStyles.Float, CultureInfo.InvariantCulture, out _) ? d.Validation : Resolve(d.Validation)),
            Format = Format(d.Format),
            MaxLength = d.MaxLength,
            TrainOn = d.TrainOn switch { "all" => TrainOn.All, "completions" => TrainOn.Completions, _ => TrainOn.Assistant },
            Columns = d.Columns,
            PromptTemplate = d.PromptTemplate,
            CompletionTemplate = d.CompletionTemplate,
            PromptStyle = d.PromptStyle == "chat" ? PromptStyle.Chat : PromptStyle.Plain,
            LongRows = d.LongRows switch { "drop" => LongRows.Drop, "split" => LongRows.Split, _ => LongRows.Cut },
            Workers = d.Workers,
            AllowOverlap = d.AllowOverlap,
            MaxSamples = d.MaxSamples,
            Seed = (ulong)_recipe.Training.Seed,
        };
    }

    private static DatasetFormat Format(string name) => name switch
    {
        "chat" => DatasetFormat.Chat,
        "alpaca" => DatasetFormat.Alpaca,
        "prompt_completion" => DatasetFormat.PromptCompletion,
        "text" => DatasetFormat.Text,
        "preference" => DatasetFormat.Preference,
        "kto" => DatasetFormat.Kto,
        "tokenized" => DatasetFormat.Tokenized,
        "auto" => DatasetFormat.Auto,
        _ => throw new LoraSharpException($"data.format is '{name}'. Expected auto, chat, alpaca, prompt_completion, text, preference, kto or tokenized."),
    };

    internal TrainerOptions Options(IBatchSource source)
    {
        TrainingRecipe t = _recipe.Training;
        var options = new TrainerOptions
        {
            Epochs = t.Epochs,
            MaxSteps = t.MaxSteps,
            Optimizer = t.Optimizer switch { "adamw8bit" => OptimizerKind.AdamW8bit, "sgd" => OptimizerKind.Sgd, "muon" => OptimizerKind.Muon, _ => OptimizerKind.AdamW },
            LearningRate = t.LearningRate,
            Schedule = t.Schedule switch
            {
                "constant" => ScheduleKind.Constant,
                "linear" => ScheduleKind.Linear,
                "cosine_with_min" => ScheduleKind.CosineWithMinimum,
                "wsd" => ScheduleKind.WarmupStableDecay,
                "inverse_sqrt" => ScheduleKind.InverseSquareRoot,
                _ => ScheduleKind.Cosine,
            },
            WarmupSteps = t.WarmupSteps,
            MinimumLearningRateRatio = t.MinLearningRateRatio,
            DecayRatio = t.DecayRatio,
            WeightDecay = t.WeightDecay,
            Beta1 = t.AdamBeta1,
            Beta2 = t.AdamBeta2,
            Epsilon = t.AdamEpsilon,
            MaxGradNorm = t.MaxGradNorm,
            Seed = t.Seed,
            LoraPlusRatio = t.LoraplusRatio,
            GradientCheckpointing = t.GradientCheckpointing switch { "on" => GradientCheckpointing.On, "off" => GradientCheckpointing.Off, _ => GradientCheckpointing.Auto },
            LabelSmoothing = t.LabelSmoothing,
            ZLoss = t.ZLoss,
            NeftuneAlpha = t.NeftuneAlpha,
            EvalInterval = t.EvalSteps,
            SaveInterval = t.SaveSteps,
            KeepLast = t.KeepLast,
            EarlyStoppingPatience = t.EarlyStopping,
            LoadBestAtEnd = t.LoadBest || t.EarlyStopping > 0,
            EmaDecay = t.EmaDecay,
        };
        if (t.SaveSteps == 0)
        {
            // About ten checkpoints in a run, so that a crash costs at most a tenth of it.
            long total = t.MaxSteps > 0 ? t.MaxSteps : source.TotalSteps ?? (long)Math.Ceiling(t.Epochs * (source.StepsPerEpoch ?? 0));
            options = options with { SaveInterval = Math.Max(1, total / 10) };
        }

        return options;
    }

    /// <summary>What the recipe says about batches.</summary>
    /// <param name="loaded">The model, for the id that padding holds; null for 0.</param>
    /// <param name="data">The rows: tokenized, preference and KTO rows are not packed; null when they are the caller's.</param>
    public BatchOptions Batches(LoadedModel? loaded, TrainingData? data)
    {
        bool onGpu = EngineSetup.FindDevice(_recipe.Device).type == TorchSharp.DeviceType.CUDA;
        // A tokenized line is one row of a micro-batch as it stands; completions are sampled of one prompt a row.
        bool packs = _recipe.Data.Packing && data is { Kind: ExampleKind.Plain } && !LearnsFromRewards && !data.Report.Sources.Any(s => s.Format == DatasetFormat.Tokenized.Name());
        return new BatchOptions
        {
            BatchSize = _recipe.Training.BatchSize,
            GradientAccumulation = _recipe.Training.GradientAccumulation,
            Epochs = _recipe.Training.Epochs,
            MaxSteps = _recipe.Training.MaxSteps,
            Shuffle = _recipe.Data.Shuffle,
            Seed = (ulong)_recipe.Training.Seed,
            Packing = packs,
            MaxLength = _recipe.Data.MaxLength,
            // One shape for all, so that a GPU's step can be captured once.
            PadToMaxLength = onGpu && packs,
            GroupByLength = _recipe.Data.GroupByLength,
            PadTokenId = loaded is null ? 0 : loaded.TokenizerOrNull?.PadTokenId ?? 0,
        };
    }

    internal static IBatchSource Planner(TrainingData data, BatchOptions options) => data.Kind switch
    {
        ExampleKind.Preference => new PairPlanner(data.Train, options, data.Sources),
        ExampleKind.Kto => new KtoPlanner(data.Train, data.TrainVerdicts, options, data.Sources),
        _ => new BatchPlanner(data.Train, options, data.Sources),
    };

    internal static Func<IEnumerable<MicroBatch>>? Validation(TrainingData data, BatchOptions options) => data.Validation is not { } rows ? null : data.Kind switch
    {
        ExampleKind.Preference => () => PairPlanner.InOrder(rows, options.BatchSize, options.PadTokenId),
        ExampleKind.Kto => () => KtoPlanner.InOrder(rows, data.ValidationVerdicts, options.BatchSize, options.PadTokenId),
        _ => () => BatchPlanner.InOrder(rows, options.BatchSize, options.PadTokenId),
    };

    // Of rewards each sample may be learned from several times.
    private IBatchSource Repeated(IBatchSource source) => LearnsFromRewards && _recipe.Grpo.Iterations > 1 ? new RepeatedSteps(source, _recipe.Grpo.Iterations) : source;

    private bool LearnsFromRewards => Reward is not null || _recipe.Grpo.Reward != "none";

    private ITrainingObjective ObjectiveOf(LoadedModel loaded, TrainingData? data, TrainerOptions options, BatchOptions batches, RunFolder folder, Action<string> notes)
    {
        var told = new RecipeObjective(_recipe, loaded, options, batches);
        return Objective is { } own ? own(loaded, options, told.Noise()) : told.Create(data, Reward, folder.Reference, notes);
    }

    /// <summary>Next-token prediction, by the fused step where it fits.</summary>
    internal ITrainingObjective LanguageModeling(LoadedModel loaded, LoraAdapter? adapter, TrainerOptions options, BatchOptions batches, Action<string>? notes) =>
        new RecipeObjective(_recipe, loaded, options, batches).LanguageModeling(adapter, notes);

    // What must be equal for a run to be gone on with: everything but where it is written and how long it is kept.
    private JsonObject Fingerprint()
    {
        Recipe same = _recipe with { Output = "", Overwrite = false, Device = "", Report = new(), Sweep = new(), Training = _recipe.Training with { KeepLast = 1, ReuseMemory = false } };
        return new JsonObject(RecipeWriter.Settings(same).Select(s => KeyValuePair.Create(s.Key, (JsonNode?)JsonValue.Create(s.Value))));
    }

    internal string Resolve(string path) =>
        _recipeFolder is null || Path.IsPathRooted(path) || File.Exists(path) || Directory.Exists(path) || !(File.Exists(Path.Combine(_recipeFolder, path)) || Directory.Exists(Path.Combine(_recipeFolder, path)))
            ? path
            : Path.Combine(_recipeFolder, path);

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

/// <summary>Passes events on to another thread.</summary>
internal sealed class EventWriter(ChannelWriter<TrainingEvent> events) : ITrainingObserver
{
    public void On(TrainingEvent happened) => events.TryWrite(happened);
}
