using System.Runtime.InteropServices;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// Writes a 4-bit checkpoint as transformers saves one with bitsandbytes: the same tensor names, types, tables and
/// JSON, so that <c>AutoModelForCausalLM.from_pretrained</c> opens it as it is.
/// </summary>
public static class BitsAndBytesWriter
{
    // What belongs to the weights, and is written anew.
    private static readonly string[] NotCopied = ["config.json"];

    /// <summary>Writes the folder: weights, configuration, and every other file of the source (tokenizer, generation settings).</summary>
    /// <param name="source">The dense model.</param>
    /// <param name="weights">The quantised matrices by tensor name (<c>NAME.weight</c>); all other tensors are copied.</param>
    /// <param name="keptLayers">Linear layers that were left dense, the output head included: recorded as <c>llm_int8_skip_modules</c> when there are others than the head.</param>
    /// <param name="outputHead">Path of the output head, which transformers skips without being told; null when there is none.</param>
    /// <param name="options">Type, block size, double quantisation.</param>
    /// <param name="folder">Where to: it must not exist, or be empty, and appears when all of it is written.</param>
    /// <exception cref="LoraSharpException">The folder holds something, the disk is full, or nothing may be written there.</exception>
    public static void Write(ModelSource source, IReadOnlyDictionary<string, FourBitWeight> weights, IReadOnlyCollection<string> keptLayers, string? outputHead, QuantizationOptions options, string folder)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(weights);
        ArgumentNullException.ThrowIfNull(options);
        List<TensorToWrite> tensors = [];
        foreach (TensorInfo info in source.Tensors.Tensors.Values.OrderBy(t => t.Name, StringComparer.Ordinal))
        {
            if (weights.TryGetValue(info.Name, out FourBitWeight? weight))
            {
                tensors.AddRange(Tensors(info.Name, weight));
            }
            else
            {
                string name = info.Name;
                tensors.Add(new TensorToWrite(info, stream => TensorToWrite.From(source.Tensors.Read(name)).Write(stream)));
            }
        }

        string config = Configuration(source, keptLayers, outputHead, options).ToJsonString(new JsonSerializerOptions { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }) + "\n";
        OutputFolder.Write(folder, aside =>
        {
            SafetensorsFolder.Write(aside, tensors);
            CopyOtherFiles(source, aside);
            AtomicFile.WriteText(Path.Combine(aside, "config.json"), config);
        });
    }

    /// <summary>The tensors of one matrix.</summary>
    internal static IEnumerable<TensorToWrite> Tensors(string name, FourBitWeight weight)
    {
        yield return Of(name, weight.Packed);
        yield return Of(name + ".absmax", weight.Absmax);
        yield return Of(name + ".quant_map", weight.Codebook.Values.AsSpan());
        if (weight.NestedAbsmax is { } nested)
        {
            yield return Of(name + ".nested_absmax", nested);
            yield return Of(name + ".nested_quant_map", DynamicMap.Signed.Values.AsSpan());
        }

        byte[] state = Encoding.UTF8.GetBytes(State(weight));
        yield return new TensorToWrite(new TensorInfo($"{name}{FourBitTensors.StateMarker}{weight.Codebook.Name}", ElementType.U8, [state.Length]), stream => stream.Write(state));
    }

    /// <summary>The rest of the state as Python's json.dumps writes it: the same text, so that equal input gives equal files.</summary>
    private static string State(FourBitWeight weight)
    {
        string dtype = weight.DType switch { ScalarType.Float32 => "float32", ScalarType.BFloat16 => "bfloat16", _ => "float16" };
        string text = FormattableString.Invariant($"{{\"quant_type\": \"{weight.Codebook.Name}\", \"blocksize\": {weight.BlockSize}, \"dtype\": \"{dtype}\", \"shape\": [{weight.Rows}, {weight.Columns}]");
        if (weight.IsDoublyQuantized)
        {
            string offset = ((double)weight.NestedOffset).ToString("R", System.Globalization.CultureInfo.InvariantCulture).Replace('E', 'e');
            offset = offset.AsSpan().IndexOfAny('.', 'e') < 0 ? offset + ".0" : offset;
            text += FormattableString.Invariant($", \"nested_blocksize\": {DoubleQuantization.BlockSize}, \"nested_dtype\": \"float32\", \"nested_offset\": {offset}");
        }

        return text + "}";
    }

    private static JsonObject Configuration(ModelSource source, IReadOnlyCollection<string> keptLayers, string? outputHead, QuantizationOptions options)
    {
        var config = (JsonObject)source.Config.DeepClone();
        string compute = (config["dtype"] ?? config["torch_dtype"]) is JsonValue value && value.TryGetValue(out string? dtype) && dtype is "bfloat16" or "float16" ? dtype! : "float32";
        string[] skipped = keptLayers.Any(k => k != outputHead) ? [.. keptLayers.Order(StringComparer.Ordinal)] : [];
        config["quantization_config"] = new JsonObject
        {
            ["_load_in_4bit"] = true,
            ["_load_in_8bit"] = false,
            ["bnb_4bit_compute_dtype"] = compute,
            ["bnb_4bit_quant_storage"] = "uint8",
            ["bnb_4bit_quant_type"] = options.Type == FourBitType.Nf4 ? "nf4" : "fp4",
            ["bnb_4bit_use_double_quant"] = options.DoubleQuantization,
            ["llm_int8_enable_fp32_cpu_offload"] = false,
            ["llm_int8_has_fp16_weight"] = false,
            ["llm_int8_skip_modules"] = skipped.Length == 0 ? null : new JsonArray([.. skipped.Select(s => (JsonNode)s)]),

            // Not the number 6: transformers refuses a threshold that Python reads as an int.
            ["llm_int8_threshold"] = JsonNode.Parse("6.0"),
            ["load_in_4bit"] = true,
            ["load_in_8bit"] = false,
            ["quant_method"] = "bitsandbytes",
        };
        return config;
    }

    private static void CopyOtherFiles(ModelSource source, string folder)
    {
        if (!Directory.Exists(source.Location))
        {
            return;
        }

        foreach (string path in Directory.EnumerateFiles(source.Location))
        {
            string name = Path.GetFileName(path);
            bool isWeights = Path.GetExtension(name) is ".safetensors" or ".bin" or ".pth" or ".pt" or ".gguf" or ".h5" or ".msgpack"
                || name.EndsWith(".index.json", StringComparison.Ordinal);
            if (!isWeights && !NotCopied.Contains(name))
            {
                AtomicFile.Write(Path.Combine(folder, name), stream =>
                {
                    using FileStream file = File.OpenRead(path);
                    file.CopyTo(stream);
                });
            }
        }
    }

    private static TensorToWrite Of(string name, Tensor tensor) =>
        new(new TensorInfo(name, tensor.dtype.ToElementType(), [.. tensor.shape]), stream => TensorBytes.CopyTo(tensor, stream));

    private static TensorToWrite Of(string name, ReadOnlySpan<float> values)
    {
        byte[] bytes = MemoryMarshal.AsBytes(values).ToArray();
        return new TensorToWrite(new TensorInfo(name, ElementType.F32, [values.Length]), stream => stream.Write(bytes));
    }
}
