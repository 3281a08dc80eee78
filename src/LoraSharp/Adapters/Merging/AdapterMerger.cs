using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Merging;

/// <summary>
/// W' = W + scaling · B·A into a plain checkpoint, or out of it again: tensor by tensor, in float32 whatever the
/// storage, in the memory of the largest tensor. Shards stay as they are; configuration and tokenizer come along.
/// </summary>
public static class AdapterMerger
{
    static AdapterMerger() => NativeRuntime.EnsureLoaded();

    /// <summary>Merges and writes a model folder.</summary>
    /// <param name="model">The base (or with <see cref="MergeOptions.Unmerge"/> the merged model).</param>
    /// <param name="adapters">Their changes add up.</param>
    /// <param name="output">Must not exist, or be empty.</param>
    /// <param name="options">How.</param>
    /// <param name="progress">Told the number of tensors written so far and their total.</param>
    /// <exception cref="LoraSharpException">An adapter doesn't fit; nothing was written.</exception>
    public static MergeReport Merge(ModelSource model, IReadOnlyList<MergedAdapter> adapters, string output, MergeOptions options, Action<int, int>? progress = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(adapters);
        ArgumentNullException.ThrowIfNull(options);
        OutputFolder.RequireFree(output);
        RefuseQuantised(model);
        var names = new CheckpointNames(model);
        var edits = new TensorEdits(names, model.Tensors, adapters, options.Unmerge);
        List<string> notes = options.Unmerge ? [] : RequireBase(model, adapters, options.AcceptOtherBases);
        var rounding = new RoundingStatistics();
        using var grad = no_grad();
        CheckpointCopy.Write(model, output, new CopyPlan
        {
            Added = edits.UntiedHead is { } head ? [(head, names.InputEmbedding!)] : [],
            Type = info => options.StoredType is { } wanted && IsFloat(info.Type) ? wanted : info.Type,
            Changes = name => edits.Changed.Contains(name),
            Value = (name, stored) => edits.Apply(name, stored),
            Rounded = rounding.Add,
            Config = config => Adjust(config, edits.UntiedHead, options.StoredType),
            Progress = progress,
        });
        if (edits.UntiedHead is not null)
        {
            notes.Add($"The base ties {edits.UntiedHead} to the embedding and only one of them changes, so it has a tensor of its own now and tie_word_embeddings is false.");
        }

        return new MergeReport
        {
            Changed = edits.Changed.Count,
            Tensors = model.Tensors.Tensors.Count,
            UpdateNorm = rounding.UpdateNorm,
            RoundingLoss = rounding.Loss,
            LostToRounding = rounding.Unchanged,
            StoredTypes = rounding.Types,
            Notes = notes,
        };
    }

    internal static bool IsFloat(ElementType type) => type is ElementType.F32 or ElementType.BF16 or ElementType.F16 or ElementType.F64;

    private static void Adjust(JsonObject config, string? untiedHead, ElementType? type)
    {
        if (untiedHead is not null)
        {
            config["tie_word_embeddings"] = false;
        }

        if (type is { } stored)
        {
            string name = stored switch { ElementType.BF16 => "bfloat16", ElementType.F16 => "float16", ElementType.F64 => "float64", _ => "float32" };
            config[config.ContainsKey("dtype") ? "dtype" : "torch_dtype"] = name;
        }
    }

    private static List<string> RequireBase(ModelSource model, IReadOnlyList<MergedAdapter> adapters, bool accepted)
    {
        if (adapters.All(a => a.Folder.Metadata.Count == 0))
        {
            return [];
        }

        BaseFingerprint fingerprint = BaseFingerprint.Of(model.Tensors);
        return [.. adapters.Select(a => fingerprint.Compare(a.Folder.Metadata)?.Settle(a.Folder.Location, a.Folder.Config.BaseModel, accepted)).OfType<string>()];
    }

    private static void RefuseQuantised(ModelSource model)
    {
        if (model.Config["quantization_config"] is JsonObject quantised)
        {
            string method = quantised["quant_method"] is JsonValue value && value.GetValueKind() == JsonValueKind.String ? value.GetValue<string>() : "unknown";
            throw new LoraSharpException(
                $"{model.Location}: the weights are quantised ({method}). Merging into them would round every weight again. Merge into the model they were made from and quantise the result (lora quantize).");
        }
    }
}
