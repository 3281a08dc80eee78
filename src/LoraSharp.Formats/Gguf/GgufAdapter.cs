using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf.Mapping;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Formats.Gguf;

/// <summary>
/// A LoRA adapter in a GGUF file (<c>adapter.type=lora</c>; tensors <c>NAME.weight.lora_a</c> and <c>.lora_b</c>) as if it
/// were a PEFT folder.
/// </summary>
public static class GgufAdapter
{
    private const int MostRank = 1 << 16;
    private const string A = ".lora_a";
    private const string B = ".lora_b";

    /// <summary>Whether a path is written like such a file's.</summary>
    public static bool IsAdapterFile(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        return path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) && !Directory.Exists(path);
    }

    /// <summary>Opens an adapter.</summary>
    /// <param name="path">The file.</param>
    /// <param name="baseConfig">
    /// config.json of the base model: llama.cpp's files don't say how many heads the rows of q and k belong to. Null is
    /// enough for a file that this library wrote, and for architectures that rearrange nothing.
    /// </param>
    /// <exception cref="MalformedFileException">The file is malformed, a model, or does not fit the architecture.</exception>
    public static AdapterFolder Open(string path, JsonObject? baseConfig = null)
    {
        GgufShards file = GgufShards.Open(path);
        try
        {
            string type = file.Find("general.type")?.AsString() ?? "model";
            string kind = file.Find("adapter.type")?.AsString() ?? "none";
            if (type != "adapter" || kind != "lora")
            {
                throw new MalformedFileException(path, $"is no LoRA adapter: general.type is '{type}', adapter.type '{kind}'.");
            }

            double alpha = (file.Find("adapter.lora.alpha") ?? throw new MalformedFileException(path, "has no metadata 'adapter.lora.alpha'.")).AsDouble();
            Dictionary<string, GgufTensorPlan> plans = Plans(file, Architecture(file, baseConfig), baseConfig);
            return new AdapterFolder(path, Config(plans, alpha, file), new GgufPlannedTensors(file, plans));
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static GgufArchitecture Architecture(GgufShards file, JsonObject? baseConfig)
    {
        GgufArchitecture own = GgufArchitectures.Of(file);
        if (baseConfig is null)
        {
            return own;
        }

        // The adapter's file knows llama; the base whether that is Llama, Mistral or Mixtral.
        GgufArchitecture wanted = GgufArchitectures.Of(new GgufModelConfig(file.Location, baseConfig));
        return wanted.Name == own.Name
            ? wanted
            : throw new MalformedFileException(file.Location, $"is an adapter for the architecture {own.Name}, the base model is {wanted.Name} ({wanted.ModelType}).");
    }

    private static unsafe Dictionary<string, GgufTensorPlan> Plans(GgufShards file, GgufArchitecture architecture, JsonObject? baseConfig)
    {
        var names = new GgufNames(architecture);
        var plans = new Dictionary<string, GgufTensorPlan>(StringComparer.Ordinal);
        foreach (GgufTensorInfo tensor in file.Tensors.Values)
        {
            bool isA = tensor.Name.EndsWith(A, StringComparison.Ordinal);
            if (!isA && !tensor.Name.EndsWith(B, StringComparison.Ordinal))
            {
                throw new MalformedFileException(file.Location, $"tensor '{tensor.Name}' is no part of an adapter: expected a name that ends in {A} or {B}.");
            }

            if (names.FromGguf(tensor.Name[..^A.Length]) is not ({ Layout: not GgufLayout.Ignored } rule, int layer, ".weight") || tensor.Shape.Count != 2
                || rule.Layout is GgufLayout.Experts or GgufLayout.GateUpExperts)
            {
                throw new MalformedFileException(file.Location, $"tensor '{tensor.Name}' [{string.Join(", ", tensor.Shape)}] adapts nothing that the architecture {architecture.Name} has as a matrix.");
            }

            string module = GgufNames.Fill(rule.HuggingFace, layer);
            bool isEmbedding = rule.Gguf == "token_embd";
            string key = AdapterTensor.KeyOf(module, (isA, isEmbedding) switch
            {
                (true, false) => AdapterPart.LoraA,
                (false, false) => AdapterPart.LoraB,
                (true, true) => AdapterPart.EmbeddingA,
                (false, true) => AdapterPart.EmbeddingB,
            });
            var source = new GgufSource(tensor, file.FileOf(tensor.Name).Pointer(tensor));
            ElementType type = tensor.Type.Plain() ?? ElementType.F32;
            // llama.cpp looks rows of an embedding's A up by token: [v, r] there, [r, v] in PEFT.
            plans.Add(key, isA && isEmbedding
                ? new(new TensorInfo(key, ElementType.F32, [tensor.Shape[1], tensor.Shape[0]]), [source]) { Transpose = true }
                : new(new TensorInfo(key, type, tensor.Shape), [source]) { Rows = isA ? null : Rows(file, tensor, rule.Layout, baseConfig) });
        }

        return plans;
    }

    private static Lazy<long[]>? Rows(GgufShards file, GgufTensorInfo tensor, GgufLayout layout, JsonObject? baseConfig)
    {
        (int queries, int keys) Heads()
        {
            if (baseConfig is not null)
            {
                var config = new GgufModelConfig(file.Location, baseConfig);
                int heads = config.Integer(config.Alias("num_attention_heads", "n_head"));
                return (heads, config.IntegerOrNull("num_key_value_heads") ?? (config.FlagOrNull("new_decoder_architecture") == false ? 1 : config.IntegerOrNull("num_kv_heads") ?? heads));
            }

            var metadata = new GgufModelMetadata(file, file.Find("general.architecture")!.Value.AsString());
            return metadata.Has("attention.head_count")
                ? (metadata.Integer("attention.head_count"), metadata.IntegerOrNull("attention.head_count_kv") ?? metadata.Integer("attention.head_count"))
                : throw new LoraSharpException($"{file.Location}: does not say how many heads the rows of '{tensor.Name}' belong to. Name the base model too (--model).");
        }

        if (layout is not (GgufLayout.RotaryQuery or GgufLayout.RotaryKey or GgufLayout.NeoxQkv or GgufLayout.FalconQkv))
        {
            return null;
        }

        (int queries, int keys) = Heads();
        (int groups, int parts) = layout switch
        {
            GgufLayout.RotaryQuery => (queries, 2),
            GgufLayout.RotaryKey => (keys, 2),
            GgufLayout.NeoxQkv => (queries, 3),
            _ => (keys, (queries / Math.Max(1, keys)) + 2),
        };
        if (groups <= 0 || tensor.Shape[0] % ((long)groups * parts) != 0 || tensor.Shape[0] > 1 << 20)
        {
            throw new MalformedFileException(file.Location, $"tensor '{tensor.Name}' has {tensor.Shape[0]} rows, which {groups} heads or groups do not divide. Does it belong to this base model?");
        }

        return new(() => parts == 2 ? GgufRowOrder.Rotary(tensor.Shape[0], groups) : GgufRowOrder.GroupedQkv(tensor.Shape[0], groups, parts - 2));
    }

    private static PeftConfig Config(Dictionary<string, GgufTensorPlan> plans, double alpha, GgufShards file)
    {
        SortedDictionary<string, int> ranks = new(StringComparer.Ordinal);
        foreach ((string key, GgufTensorPlan plan) in plans)
        {
            AdapterTensor part = AdapterTensor.Parse(key, plan.Info)!;
            if (part.Part is AdapterPart.LoraA or AdapterPart.EmbeddingA)
            {
                // A factor without elements may claim any rank without running past the file.
                long claimed = plan.Info.Shape[0];
                ranks[part.Module] = claimed is > 0 and <= MostRank && plan.Info.Shape[1] > 0
                    ? (int)claimed
                    : throw new MalformedFileException(file.Location, $"the factor A of {part.Module} is {plan.Info.ShapeText}, expected a rank of 1 to {MostRank} and inputs.");
            }
        }

        if (ranks.Count == 0)
        {
            throw new MalformedFileException(file.Location, "holds no factor A: the adapter is empty.");
        }

        int rank = ranks.Values.GroupBy(r => r).OrderByDescending(g => g.Count()).ThenBy(g => g.Key).First().Key;
        return new PeftConfig
        {
            Rank = rank,
            Alpha = alpha,
            TargetModules = ModuleSelector.List(ranks.Keys),
            RankPattern = ranks.Where(r => r.Value != rank).ToDictionary(r => r.Key, r => r.Value, StringComparer.Ordinal),
            BaseModel = file.Find("general.base_model.0.repo_url")?.AsString(),
        };
    }
}
