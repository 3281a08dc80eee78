using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Formats.Gguf;

/// <summary>Writes what a GGUF file holds as a Hugging Face model folder or a PEFT adapter folder.</summary>
public static class GgufFolderWriter
{
    private const int Stretch = 1 << 20;

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, IndentSize = 2, NewLine = "\n", Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes a model folder: weights, configuration, tokenizer and chat template.</summary>
    /// <param name="checkpoint">The file.</param>
    /// <param name="folder">Must not exist, or be empty.</param>
    /// <param name="type">Type of all weights; null: as stored, single precision for block types.</param>
    /// <exception cref="LoraSharpException">The folder holds something already.</exception>
    public static void WriteModel(GgufCheckpoint checkpoint, string folder, ElementType? type = null)
    {
        ArgumentNullException.ThrowIfNull(checkpoint);
        OutputFolder.Write(folder, aside => WriteModelFiles(checkpoint, aside, type));
    }

    private static void WriteModelFiles(GgufCheckpoint checkpoint, string folder, ElementType? type)
    {
        SafetensorsWriter.Write(
            Path.Combine(folder, "model.safetensors"),
            checkpoint.Tensors.Values.Select(t => Tensor(checkpoint, t, type ?? t.Type)),
            new Dictionary<string, string> { ["format"] = "pt" });
        if (checkpoint.TokenizerJson() is { } tokenizer)
        {
            Write(folder, "tokenizer.json", tokenizer);
            Write(folder, "tokenizer_config.json", checkpoint.TokenizerConfig()!);
        }

        Write(folder, "generation_config.json", GenerationConfig(checkpoint));
        var config = (JsonObject)checkpoint.Config.DeepClone();
        config["torch_dtype"] = Name(type ?? Usual(checkpoint));
        Write(folder, "config.json", config);
    }

    /// <summary>Writes an adapter folder: weights and adapter_config.json.</summary>
    /// <param name="adapter">The adapter, e.g. from <see cref="GgufAdapter"/>.</param>
    /// <param name="folder">Must not exist, or be empty.</param>
    /// <param name="baseModel">Recorded as <c>base_model_name_or_path</c>; null: what the adapter says.</param>
    public static void WriteAdapter(AdapterFolder adapter, string folder, string? baseModel = null)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        OutputFolder.Write(folder, aside =>
        {
            SafetensorsWriter.Write(
                Path.Combine(aside, AdapterFolder.WeightsName),
                adapter.Tensors.Tensors.Values.Select(t => Tensor(adapter.Tensors, t, t.Type)),
                new Dictionary<string, string> { ["format"] = "pt" });
            PeftConfig config = baseModel is null ? adapter.Config : adapter.Config with { BaseModel = baseModel };
            config.Write(aside);
        });
    }

    private static TensorToWrite Tensor(ITensorSource source, TensorInfo info, ElementType type) => new(info with { Type = type }, stream =>
    {
        TensorData data = source.Read(info.Name);
        if (type == info.Type)
        {
            TensorToWrite.From(data).Write(stream);
            return;
        }

        GgufTensorType target = type switch
        {
            ElementType.F32 => GgufTensorType.F32,
            ElementType.F16 => GgufTensorType.F16,
            ElementType.BF16 => GgufTensorType.BF16,
            _ => throw new LoraSharpException($"weights can be stored as F32, F16 or BF16, not {type}."),
        };
        float[] weights = new float[(int)Math.Min(Stretch, info.Count)];
        byte[] bytes = new byte[target.ByteCount(weights.Length)];
        for (long at = 0; at < info.Count; at += weights.Length)
        {
            Span<float> piece = weights.AsSpan(0, (int)Math.Min(weights.Length, info.Count - at));
            Span<byte> encoded = bytes.AsSpan(0, (int)target.ByteCount(piece.Length));
            GgufExportCheck.Floats(data, at, piece);
            GgufQuantizer.Quantize(target, piece, encoded);
            stream.Write(encoded);
        }
    });

    private static JsonObject GenerationConfig(GgufCheckpoint checkpoint)
    {
        var json = new JsonObject { ["_from_model_config"] = true };
        foreach (string key in new[] { "bos_token_id", "eos_token_id", "pad_token_id" })
        {
            if (checkpoint.Config[key] is { } id)
            {
                json[key] = id.DeepClone();
            }
        }

        if (checkpoint.File.Find("tokenizer.ggml.eot_token_id") is { } turn && json["eos_token_id"] is { } end && turn.AsInt64() != (long)end)
        {
            json["eos_token_id"] = new JsonArray(end.DeepClone(), turn.AsInt64());
        }

        return json;
    }

    /// <summary>The type most weights have.</summary>
    private static ElementType Usual(GgufCheckpoint checkpoint) => checkpoint.Tensors.Values.GroupBy(t => t.Type).OrderByDescending(g => g.Sum(t => t.Count)).First().Key;

    private static string Name(ElementType type) => type switch
    {
        ElementType.BF16 => "bfloat16",
        ElementType.F16 => "float16",
        ElementType.F64 => "float64",
        _ => "float32",
    };

    private static void Write(string folder, string name, JsonObject json) => AtomicFile.WriteText(Path.Combine(folder, name), json.ToJsonString(Indented) + "\n");
}
