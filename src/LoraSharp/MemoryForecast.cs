using System.Text.RegularExpressions;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;

namespace LoraSharp;

/// <summary>
/// Peak memory of a recipe on a CPU, known before a weight is read: from the checkpoint's headers, and from the largest
/// micro-batch that the recipe makes of its rows. For dense decoders; of a mixture of experts it is an upper bound.
/// </summary>
public sealed partial record MemoryForecast
{
    // Resident before a model is there: .NET, libtorch, and a tokenizer's tables by the size of its vocabulary.
    private const long Process = 295_000_000;
    private const long TokenizerEntry = 1_000;

    // Gaps between blocks that are kept for reuse, as a share of activations in float32 and bfloat16.
    private const double GapsFloat32 = 0.45, GapsBfloat16 = 0.27;

    // Of a piece of logits: itself, its logarithms, their derivative in the compute type.
    private const int BytesOfLogit = 12;

    // Enough to see every epoch of a small set and a good part of a large one's first.
    private const int StepsLookedAt = 3_000;

    /// <summary>The process itself: runtime, native libraries, tokenizer.</summary>
    public required long Runtime { get; init; }

    /// <summary>The base as it is held: dense in the compute type, in 4 bits, or in the blocks of a GGUF file, with what stays dense.</summary>
    public required long Base { get; init; }

    /// <summary>Trained weights beside the base, gradients, optimizer state, averages.</summary>
    public required long Trained { get; init; }

    /// <summary>Activations of the largest micro-batch.</summary>
    public required long Activations { get; init; }

    /// <summary>The pieces of logits, and the gradient of a head that trains.</summary>
    public required long Logits { get; init; }

    /// <summary>Rows of the largest micro-batch.</summary>
    public required int Rows { get; init; }

    /// <summary>Tokens of each of its rows, padding included.</summary>
    public required int Length { get; init; }

    /// <summary>Whether activations are computed again instead of kept.</summary>
    public required bool Recomputes { get; init; }

    /// <summary>The same recipe on a GPU; null where the blocks are not Llama's or every weight trains.</summary>
    public GpuMemoryForecast? Gpu { get; init; }

    /// <summary>All parts.</summary>
    public long Total => Runtime + Base + Trained + Activations + Logits;

    /// <summary>Looks at model and rows of a recipe.</summary>
    /// <param name="recipe">The recipe.</param>
    /// <param name="recipeFolder">Relative paths are looked up here too; null for none.</param>
    /// <exception cref="LoraSharpException">The model or the data is missing or malformed.</exception>
    public static MemoryForecast Of(Recipe recipe, string? recipeFolder = null)
    {
        ArgumentNullException.ThrowIfNull(recipe);
        var settings = new RecipeSettings(recipe, recipeFolder);
        using ModelSource source = EngineSetup.OpenModel(settings.Model);
        DecoderConfig config = DecoderConfig.Read(source.Config, source.Location, recipe.ModelType);
        EngineOptions engine = settings.Engine(recipe.Method == "full");
        int compute = engine.DType == "bfloat16" ? 2 : 4;
        TensorInfo[] all = [.. source.Tensors.Tensors.Values];
        TensorInfo[] matrices = [.. all.Where(t => t.Shape.Count == 2 && InBlock().IsMatch(t.Name) && t.Name.EndsWith(".weight", StringComparison.Ordinal))];
        (int rows, int length) = LargestBatch(recipe, settings, config.VocabularySize);
        long tokens = (long)rows * length;
        double perToken = ActivationMemory.BytesPerToken(matrices.Select(m => (m.Shape[0], m.Shape[1])), config.Layers.Count, config.HiddenSize, compute, recipe.Method != "full");
        bool recomputes = recipe.Training.GradientCheckpointing switch
        {
            "on" => true,
            "off" => false,
            _ => perToken * tokens > RecomputeDecision.HostBudget,
        };
        return new MemoryForecast
        {
            Runtime = Process + (TokenizerEntry * config.VocabularySize),
            Base = BaseMemory.Bytes(source, matrices, engine.Quantization, compute, trainsBase: recipe.Method == "full"),
            Trained = TrainedBytes(recipe, settings, all, matrices, compute),
            Activations = (long)((recomputes ? ActivationMemory.Recomputed(perToken, config.Layers.Count, config.HiddenSize, compute, tokens) : perToken * tokens) * (recipe.Training.ReuseMemory ? 1 + (compute == sizeof(float) ? GapsFloat32 : GapsBfloat16) : 1)),
            Logits = LogitBytes(recipe, config, tokens, compute),
            Rows = rows,
            Length = length,
            Recomputes = recomputes,
            Gpu = recipe.Method == "full" ? null : OnGpu(recipe, settings, source, matrices, config, rows, length),
        };
    }

    private static GpuMemoryForecast? OnGpu(Recipe recipe, RecipeSettings settings, ModelSource source, TensorInfo[] matrices, DecoderConfig config, int rows, int length)
    {
        const int Compute = 2;
        TensorInfo[] all = [.. source.Tensors.Tensors.Values];
        if (GpuMemoryForecast.ShapeOf(all, matrices, config) is not { } shape)
        {
            return null;
        }

        QuantizationOptions? quantization = settings.Engine(full: false).Quantization;
        TrainingRecipe t = recipe.Training;
        bool packed = recipe.Data.Packing;
        bool fits = packed && t is { FusedStep: "auto", LabelSmoothing: 0, ZLoss: 0, NeftuneAlpha: 0 } && recipe.Adapter is { Dropout: 0, RankDropout: 0, Dora: false } && recipe.Adapter.ModulesToSave.Count == 0;
        (int fullRows, int fullLength) = packed ? (t.BatchSize, recipe.Data.MaxLength) : (rows, length);
        double perToken = ActivationMemory.BytesPerToken(matrices.Select(m => (m.Shape[0], m.Shape[1])), config.Layers.Count, config.HiddenSize, Compute, isAdapted: true);
        return new GpuMemoryForecast
        {
            Fused = fits ? GpuMemoryForecast.FusedBytes(shape, recipe.Adapter.Rank, quantization, (long)fullRows * fullLength, t.GradientCheckpointing == "on") : null,
            Plain = GpuMemoryForecast.PlainBytes(
                BaseMemory.Bytes(source, matrices, quantization, Compute, onCpu: false), TrainedBytes(recipe, settings, all, matrices, Compute), perToken, shape, fullRows, fullLength, t.GradientCheckpointing == "on", packed,
                LogitBytes(recipe, config, (long)fullRows * fullLength, Compute)),
        };
    }

    private static (int Rows, int Length) LargestBatch(Recipe recipe, RecipeSettings settings, long vocabulary)
    {
        ModelLanguage language = ModelLanguage.Open(settings.Model);
        using TrainingData data = TrainingData.Load(settings.Data() with { VocabularySize = vocabulary }, language.Tokenizer, language.ChatTemplate?.Renderer());
        using IBatchSource source = data.Plan(settings.Batches(null, data, recipe.Grpo.Reward != "none"));
        (int Rows, int Length) largest = (0, 0);
        for (int step = 0; step < StepsLookedAt && source.NextStep() is { Count: > 0 } batches; step++)
        {
            foreach (MicroBatch batch in batches)
            {
                // Learning from rewards: each prompt with a group of completions.
                (int rows, int length) = recipe.Grpo.Reward == "none" ? (batch.Rows, batch.Length) : (batch.Rows * recipe.Grpo.GroupSize, batch.Length + recipe.Grpo.MaxTokens);
                largest = (long)rows * length > (long)largest.Rows * largest.Length ? (rows, length) : largest;
            }
        }

        return largest;
    }

    private static long TrainedBytes(Recipe recipe, RecipeSettings settings, TensorInfo[] all, TensorInfo[] matrices, int compute)
    {
        bool full = recipe.Method == "full";
        long numbers = full ? all.Sum(t => t.Count) : AdapterNumbers(settings.Adapter(), matrices) + all.Where(t => recipe.Adapter.ModulesToSave.Any(m => t.Name.Contains(m, StringComparison.Ordinal))).Sum(t => t.Count);
        // Of full fine-tuning the weights are the base itself; in low precision each has a float32 master and a second gradient.
        long weights = !full ? sizeof(float) * numbers : compute < sizeof(float) ? (sizeof(float) + compute) * numbers : 0;
        long state = recipe.Training.Optimizer switch
        {
            "sgd" => 0,
            "adamw8bit" => (2 * numbers) + (2 * sizeof(float) * (numbers / 256)),
            "muon" => sizeof(float) * numbers,
            _ => 2 * sizeof(float) * numbers,
        };
        return weights + (sizeof(float) * numbers) + state + (recipe.Training.EmaDecay > 0 ? sizeof(float) * numbers : 0);
    }

    private static long AdapterNumbers(LoraOptions adapter, TensorInfo[] matrices) => matrices
        .Where(m => adapter.Targets is { } targets && (targets.IsAllLinear || targets.Matches(m.Name[..^".weight".Length])))
        .Sum(m => (adapter.Rank * (m.Shape[0] + m.Shape[1])) + (adapter.UseDora ? m.Shape[0] : 0));

    private static long LogitBytes(Recipe recipe, DecoderConfig config, long tokens, int compute)
    {
        long piece = Math.Min(tokens, Math.Max(16, new TrainerOptions().LogitElements / config.VocabularySize));
        long head = recipe.Method == "full" ? 2L * compute * config.VocabularySize * config.HiddenSize : 0;
        return (piece * config.VocabularySize * BytesOfLogit) + head;
    }

    [GeneratedRegex(@"\.\d+\.")]
    private static partial Regex InBlock();
}
