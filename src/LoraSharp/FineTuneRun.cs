using System.Globalization;
using System.Text.Json.Nodes;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Quantization;
using LoraSharp.Recipes;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using LoraSharp.Training;
using LoraSharp.Training.Checkpoints;
using LoraSharp.Training.Data;
using LoraSharp.Training.Fused;
using LoraSharp.Training.Loss;
using LoraSharp.Training.Preferences;
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

    /// <summary>Loads, trains, writes.</summary>
    /// <param name="observers">Hear of every step.</param>
    /// <param name="notes">Told what a user should know: rows that were cut, layers that are adapted, warnings.</param>
    /// <param name="cancellation">Ends the run after the step it is in, with a checkpoint.</param>
    /// <exception cref="LoraSharpException">Faulty settings, data or model; a loss that is no number; an output folder that is in use.</exception>
    public FineTuneResult Execute(IReadOnlyList<ITrainingObserver>? observers = null, Action<string>? notes = null, CancellationToken cancellation = default)
    {
        notes ??= _ => { };
        if (_recipe.Data.Train.Count == 0)
        {
            throw new LoraSharpException("data.train is missing: give a file, a folder or a list of them.");
        }

        HostAllocator.ReturnLargeBlocks();
        var folder = new RunFolder(_recipe.Output);
        folder.Claim(_recipe);
        bool full = _recipe.Method == "full";
        using LoadedModel loaded = EngineSetup.Load(Engine(full));
        IReadOnlyList<NamedTensor> trainable = full ? [.. loaded.Model.Parameters.DistinctBy(p => p.Name)] : AddAdapter(loaded, notes);
        DataOptions dataOptions = Data();
        using TrainingData data = TrainingData.Load(dataOptions, loaded.TokenizerOrNull, loaded.ChatRenderer, cancellation: cancellation);
        foreach (string warning in data.Report.Warnings())
        {
            notes(warning);
        }

        TrainerOptions options = Options(data);
        BatchOptions batches = Batches(loaded, data);
        using IBatchSource source = Planner(data, batches);
        using var metrics = new MetricsFile(folder.Metrics);
        var curve = new LossCurve(folder.Metrics);
        ITrainingObjective objective = Objective(loaded, data, options, batches, folder, notes);
        using var buffers = objective as IDisposable;
        using var trainer = new Trainer(
            new TrainingSetup
            {
                Objective = objective,
                Trainable = trainable,
                MustLearn = full ? null : name => !name.Contains(".experts.", StringComparison.Ordinal),
                Batches = source,
                Validation = Validation(data, batches),
                Observers = [metrics, curve, .. observers ?? []],
                Checkpoints = new CheckpointStore(folder.Checkpoints, _recipe.Training.KeepLast),
                WriteModel = full ? null : target => Write(loaded, target, full),
                Recipe = Fingerprint(),
                Clock = _clock,
            },
            options);
        TrainingResult result = trainer.Run(cancellation);
        curve.Draw(folder.Plot, $"{Path.GetFileName(Path.TrimEndingDirectorySeparator(_recipe.Model))}, {_recipe.Method}");
        if (result.End == TrainingEnd.Interrupted)
        {
            return new FineTuneResult(result, folder.Path, trainable.Sum(t => t.Value.NumberOfElements), Complete: false);
        }

        Write(loaded, folder.Path, full);
        long parameters = trainable.Sum(t => t.Value.NumberOfElements);
        AtomicFile.WriteText(folder.Card, ModelCard.Write(_recipe, loaded.Source.Config, data.Report, result, parameters, curve.FirstLoss, _clock.GetUtcNow()));
        folder.Complete();
        return new FineTuneResult(result, folder.Path, parameters, Complete: true);
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

    private IReadOnlyList<NamedTensor> AddAdapter(LoadedModel loaded, Action<string> notes)
    {
        AdapterRecipe a = _recipe.Adapter;
        LoraAdapter adapter;
        if (a.InitFrom is { } path)
        {
            using AdapterFolder start = EngineSetup.OpenAdapter(Resolve(path), loaded.Source);
            adapter = loaded.Adapters.Load(start, trainable: true);
        }
        else
        {
            adapter = loaded.Adapters.Create(Adapter(), _recipe.Training.Seed, baseModel: _recipe.Model);
        }

        if (a.Strict && adapter.Warnings.Count > 0)
        {
            throw new LoraSharpException($"{string.Join("\n  ", adapter.Warnings)}\n(adapter.strict treats these warnings as errors)");
        }

        foreach (string warning in adapter.Warnings)
        {
            notes(warning);
        }

        loaded.Adapters.Select(AdapterSet.DefaultName);
        return [.. loaded.Adapters.Trainable];
    }

    /// <summary>The adapter that the recipe asks for.</summary>
    internal LoraOptions Adapter()
    {
        AdapterRecipe a = _recipe.Adapter;
        return new LoraOptions
        {
            Rank = a.Rank,
            Alpha = a.Alpha,
            Dropout = a.Dropout,
            Targets = Selector(a.Targets),
            Exclude = a.Exclude is null ? null : Selector(a.Exclude),
            LayersToTransform = a.LayersToTransform,
            LayersPattern = a.LayersPattern is null ? null : [a.LayersPattern],
            RankPattern = a.RankPattern,
            AlphaPattern = a.AlphaPattern,
            UseRsLora = a.Rslora,
            UseDora = a.Dora,
            LoraBias = a.LoraBias,
            Bias = a.Bias,
            ModulesToSave = a.ModulesToSave.Count > 0 ? a.ModulesToSave : null,
            TrainableTokens = a.TrainableTokens.Count > 0 ? new Dictionary<string, IReadOnlyList<long>> { ["embed_tokens"] = [.. a.TrainableTokens.Select(t => (long)t)] } : null,
            Init = a.Init == "default" ? "true" : a.Init,
        };
    }

    internal static ModuleSelector Selector(NameSet names) => names.Single is { } text ? ModuleSelector.Parse(text) : ModuleSelector.List(names.Names);

    /// <summary>The base model as the recipe names it, found beside the recipe where it is not in the working folder.</summary>
    public string Model => Resolve(_recipe.Model);

    /// <summary>What the recipe says about data: which rows, and how they become tokens.</summary>
    public DataOptions Data()
    {
        DataRecipe d = _recipe.Data;
        return new DataOptions
        {
            Train = [.. d.Train.Select(s => new DataSource { Path = Resolve(s.Path), Weight = s.Weight, Format = s.Format is null ? null : Format(s.Format), MaxSamples = s.MaxSamples })],
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

    internal TrainerOptions Options(TrainingData data)
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
            LoadBestAtEnd = t.EarlyStopping > 0,
            EmaDecay = t.EmaDecay,
        };
        if (t.SaveSteps == 0)
        {
            // About ten checkpoints in a run, so that a crash costs at most a tenth of it.
            using IBatchSource once = Planner(data, Batches(null, data));
            long total = t.MaxSteps > 0 ? t.MaxSteps : once.TotalSteps ?? (long)Math.Ceiling(t.Epochs * (once.StepsPerEpoch ?? 0));
            options = options with { SaveInterval = Math.Max(1, total / 10) };
        }

        return options;
    }

    /// <summary>What the recipe says about batches.</summary>
    /// <param name="loaded">The model, for the id that padding holds; null for 0.</param>
    /// <param name="data">The rows: tokenized, preference and KTO rows are not packed.</param>
    public BatchOptions Batches(LoadedModel? loaded, TrainingData data)
    {
        bool onGpu = EngineSetup.FindDevice(_recipe.Device).type == TorchSharp.DeviceType.CUDA;
        bool tokenized = data.Report.Sources.Any(s => s.Format == DatasetFormat.Tokenized.Name());
        return new BatchOptions
        {
            BatchSize = _recipe.Training.BatchSize,
            GradientAccumulation = _recipe.Training.GradientAccumulation,
            Epochs = _recipe.Training.Epochs,
            MaxSteps = _recipe.Training.MaxSteps,
            Shuffle = _recipe.Data.Shuffle,
            Seed = (ulong)_recipe.Training.Seed,
            // A tokenized line is one row of a micro-batch as it stands.
            Packing = _recipe.Data.Packing && !tokenized && data.Kind == ExampleKind.Plain,
            MaxLength = _recipe.Data.MaxLength,
            // One shape for all, so that a GPU's step can be captured once.
            PadToMaxLength = onGpu && _recipe.Data.Packing && !tokenized && data.Kind == ExampleKind.Plain,
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

    private ITrainingObjective Objective(LoadedModel loaded, TrainingData data, TrainerOptions options, BatchOptions batches, RunFolder folder, Action<string> notes)
    {
        PreferenceRecipe p = _recipe.Preference;
        if (data.Kind == ExampleKind.Plain)
        {
            return p.Loss == "none"
                ? LanguageModeling(loaded, _recipe.Method == "full" ? null : loaded.Adapters[AdapterSet.DefaultName], options, batches, notes)
                : throw new LoraSharpException($"preference.loss is {p.Loss}, but the rows are no preferences. Expected rows with chosen and rejected (or label, for kto), or preference.loss: none.");
        }

        string loss = p.Loss != "none" ? p.Loss : data.Kind == ExampleKind.Kto ? "kto" : "dpo";
        if ((loss == "kto") != (data.Kind == ExampleKind.Kto))
        {
            throw new LoraSharpException($"preference.loss is {loss}, but the rows are of the kind {data.Kind}. kto learns from single answers with a label, the others from pairs of chosen and rejected.");
        }

        if (_recipe.Method == "full")
        {
            throw new LoraSharpException("preference training needs an adapter: the reference is the same base with the adapter off. Use method: lora or qlora.");
        }

        var preference = new PreferenceOptions
        {
            Kind = loss switch { "ipo" => PreferenceKind.Ipo, "hinge" => PreferenceKind.Hinge, "orpo" => PreferenceKind.Orpo, "simpo" => PreferenceKind.SimPo, "kto" => PreferenceKind.Kto, _ => PreferenceKind.Sigmoid },
            Beta = p.Beta,
            LabelSmoothing = p.LabelSmoothing,
            Gamma = p.Gamma,
        };
        return new PreferenceObjective(loaded.Model, preference, options, loaded.Adapters.Disable, Noise(loaded, options), new ReferenceCache(Path.Combine(folder.Path, "reference.bin"), _recipe.Model));
    }

    /// <summary>Next-token prediction, by the fused step where it fits.</summary>
    /// <param name="loaded">The model with what is trained selected on it.</param>
    /// <param name="adapter">What is trained; null when it is the model itself.</param>
    /// <param name="options">Of the run.</param>
    /// <param name="batches">Tell whether micro-batches have one length.</param>
    /// <param name="notes">Told why the fused step does not fit on a GPU.</param>
    internal ITrainingObjective LanguageModeling(LoadedModel loaded, LoraAdapter? adapter, TrainerOptions options, BatchOptions batches, Action<string>? notes)
    {
        if (adapter is not null && _recipe.Training.FusedStep == "auto" && loaded.Model.Device.type == TorchSharp.DeviceType.CUDA)
        {
            if (FusedObjective.Obstacle(loaded.Model, adapter, options, batches.PadToMaxLength) is not { } obstacle)
            {
                return FusedObjective.Create(loaded.Model, loaded.Adapters, adapter, options, batches.BatchSize, batches.MaxLength);
            }

            notes?.Invoke($"The fused step is not used: {obstacle}.");
        }

        return new LanguageModelingObjective(loaded.Model, options, Noise(loaded, options));
    }

    private static CombinedNoise Noise(LoadedModel loaded, TrainerOptions options)
    {
        var noise = new List<ITrainingNoise> { new AdapterNoise(loaded.Adapters, options.Seed) };
        if (options.NeftuneAlpha > 0)
        {
            noise.Add(new NeftuneNoise(options.NeftuneAlpha, options.Seed));
        }

        return new CombinedNoise(noise);
    }

    private void Write(LoadedModel loaded, string folder, bool full)
    {
        if (!full)
        {
            _ = AdapterWriter.Write(loaded.Adapters[AdapterSet.DefaultName], folder, loaded.Adapters.Base);
            return;
        }

        // Each tensor in the type the base stores it in; what full fine-tuning does not touch travels along.
        SafetensorsWriter.Write(
            Path.Combine(folder, "model.safetensors"),
            loaded.Model.Parameters.DistinctBy(p => p.Name).Where(p => loaded.Source.Tensors.Tensors.ContainsKey(p.Name)).Select(p => ToWrite(p, loaded.Source.Tensors.Tensors[p.Name].Type)),
            new Dictionary<string, string> { ["format"] = "pt" });
        foreach (string file in Directory.EnumerateFiles(loaded.Source.Location).Where(f => IsCompanion(Path.GetFileName(f))))
        {
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)), overwrite: true);
        }
    }

    private static bool IsCompanion(string name) =>
        (name.EndsWith(".json", StringComparison.Ordinal) || name.EndsWith(".jinja", StringComparison.Ordinal) || name is "tokenizer.model" or "merges.txt" or "vocab.txt")
        && !name.EndsWith(".index.json", StringComparison.Ordinal) && name is not "golden.json";

    private static TensorToWrite ToWrite(NamedTensor parameter, ElementType stored) => new(
        new TensorInfo(parameter.Name, stored, parameter.Value.shape),
        stream =>
        {
            using IDisposable none = no_grad();
            using Tensor typed = parameter.Value.detach().to(stored.ToScalarType());
            TensorBytes.CopyTo(typed, stream);
        });

    // What must be equal for a run to be gone on with: everything but where it is written and how long it is kept.
    private JsonObject Fingerprint()
    {
        Recipe same = _recipe with { Output = "", Overwrite = false, Device = "", Sweep = new(), Training = _recipe.Training with { KeepLast = 1 } };
        return new JsonObject(RecipeWriter.Settings(same).Select(s => KeyValuePair.Create(s.Key, (JsonNode?)JsonValue.Create(s.Value))));
    }

    internal string Resolve(string path) =>
        _recipeFolder is null || Path.IsPathRooted(path) || File.Exists(path) || Directory.Exists(path) || !(File.Exists(Path.Combine(_recipeFolder, path)) || Directory.Exists(Path.Combine(_recipeFolder, path)))
            ? path
            : Path.Combine(_recipeFolder, path);
}

/// <summary>What came of a run.</summary>
/// <param name="Training">Steps, losses, how it ended.</param>
/// <param name="Folder">The run folder.</param>
/// <param name="TrainedParameters">How many numbers were trained.</param>
/// <param name="Complete">False when it was interrupted: starting it again goes on.</param>
public sealed record FineTuneResult(TrainingResult Training, string Folder, long TrainedParameters, bool Complete);
