using System.Globalization;
using System.Text.Json.Nodes;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Peft;
using LoraSharp.Quantization;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>A recipe in the terms of the rooms that carry it out: options of engine, adapter, data, batches and trainer.</summary>
/// <param name="recipe">All settings.</param>
/// <param name="recipeFolder">Relative paths that do not exist from the working folder are looked up here; null for none.</param>
public sealed class RecipeSettings(Recipe recipe, string? recipeFolder = null)
{
    /// <summary>The base model as the recipe names it, found beside the recipe where it is not in the working folder.</summary>
    public string Model => Resolve(recipe.Model);

    /// <summary>How the model is loaded.</summary>
    /// <param name="full">Whether every weight trains.</param>
    internal EngineOptions Engine(bool full)
    {
        Device device = EngineSetup.FindDevice(recipe.Device);
        return new EngineOptions
        {
            Model = Resolve(recipe.Model),
            DType = recipe.Dtype == "auto" ? device.type == TorchSharp.DeviceType.CPU ? "float32" : "bfloat16" : recipe.Dtype,
            Device = recipe.Device,
            ModelType = recipe.ModelType,
            AcceptOtherBases = recipe.Adapter.AnyBase,
            TrainBase = full,
            Quantization = recipe.Method == "qlora"
                ? new QuantizationOptions
                {
                    Type = recipe.Quantization.Type == "fp4" ? FourBitType.Fp4 : FourBitType.Nf4,
                    DoubleQuantization = recipe.Quantization.Double,
                    BlockSize = recipe.Quantization.BlockSize,
                    SkipModules = recipe.Quantization.SkipModules,
                }
                : null,
        };
    }

    /// <summary>The adapter that the recipe asks for.</summary>
    internal LoraOptions Adapter() => new RunAdapter(recipe, Resolve).Options();

    /// <summary>Names of a recipe: one text is an expression or a word such as all-linear, several are names.</summary>
    internal static ModuleSelector Selector(NameSet names) => names.Single is { } text ? ModuleSelector.Parse(text) : ModuleSelector.List(names.Names);

    /// <summary>What the recipe says about data: which rows, and how they become tokens.</summary>
    public DataOptions Data()
    {
        DataRecipe d = recipe.Data;
        return new DataOptions
        {
            Train = [.. d.Train.Select(s => new DataSource { Path = Resolve(s.Path), Weight = s.Weight, Format = s.Format is null ? null : Format(s.Format), Columns = s.Columns, MaxSamples = s.MaxSamples })],
            Validation = ValidationSource.Parse(double.TryParse(d.Validation, NumberStyles.Float, CultureInfo.InvariantCulture, out _) ? d.Validation : Resolve(d.Validation)),
            Format = d.Format == "auto" ? FormatOfLoss() : Format(d.Format),
            FormatAskedBy = d.Format == "auto" && LossAsks ? $"preference.loss: {recipe.Preference.Loss}" : null,
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
            Seed = (ulong)recipe.Training.Seed,
        };
    }

    // Beside a reward it says nothing: the two exclude each other, which the objective tells.
    private bool LossAsks => recipe.Preference.Loss != "none" && recipe.Grpo.Reward == "none";

    // A loss of preferences says what its rows are. Found by looking, rows that miss a little of it would be taken for plain ones.
    private DatasetFormat FormatOfLoss() => !LossAsks ? DatasetFormat.Auto : recipe.Preference.Loss == "kto" ? DatasetFormat.Kto : DatasetFormat.Preference;

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

    /// <summary>What the recipe says of the loop.</summary>
    /// <param name="source">Tells how many steps there are, for the interval of checkpoints.</param>
    internal TrainerOptions Options(IBatchSource source)
    {
        TrainingRecipe t = recipe.Training;
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
    /// <param name="learnsFromRewards">Whether completions are sampled, of one prompt a row.</param>
    public BatchOptions Batches(LoadedModel? loaded, TrainingData? data, bool learnsFromRewards)
    {
        bool onGpu = EngineSetup.FindDevice(recipe.Device).type == TorchSharp.DeviceType.CUDA;
        // A tokenized line is one row of a micro-batch as it stands; completions are sampled of one prompt a row.
        bool packs = recipe.Data.Packing && data is { Kind: ExampleKind.Plain } && !learnsFromRewards && !data.Report.Sources.Any(s => s.Format == DatasetFormat.Tokenized.Name());
        return new BatchOptions
        {
            BatchSize = recipe.Training.BatchSize,
            GradientAccumulation = recipe.Training.GradientAccumulation,
            Epochs = recipe.Training.Epochs,
            MaxSteps = recipe.Training.MaxSteps,
            Shuffle = recipe.Data.Shuffle,
            Seed = (ulong)recipe.Training.Seed,
            Packing = packs,
            MaxLength = recipe.Data.MaxLength,
            // One shape for all, so that a GPU's step can be captured once.
            PadToMaxLength = onGpu && packs,
            GroupByLength = recipe.Data.GroupByLength,
            PadTokenId = loaded is null ? 0 : loaded.TokenizerOrNull?.PadTokenId ?? 0,
        };
    }

    /// <summary>What must be equal for a run to be gone on with: everything but where it is written and how long it is kept.</summary>
    internal JsonObject Fingerprint()
    {
        Recipe same = recipe with { Output = "", Overwrite = false, Device = "", Report = new(), Sweep = new(), Training = recipe.Training with { KeepLast = 1, ReuseMemory = false } };
        return new JsonObject(RecipeWriter.Settings(same).Select(s => KeyValuePair.Create(s.Key, (JsonNode?)JsonValue.Create(s.Value))));
    }

    /// <summary>A path as it is found: from the working folder, or else beside the recipe.</summary>
    internal string Resolve(string path) =>
        recipeFolder is null || Path.IsPathRooted(path) || File.Exists(path) || Directory.Exists(path) || !(File.Exists(Path.Combine(recipeFolder, path)) || Directory.Exists(Path.Combine(recipeFolder, path)))
            ? path
            : Path.Combine(recipeFolder, path);
}
