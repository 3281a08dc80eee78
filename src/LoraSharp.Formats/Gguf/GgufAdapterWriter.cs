using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf.Mapping;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Formats.Gguf;

/// <summary>Writes a PEFT adapter as the GGUF file that llama.cpp's <c>--lora</c> takes.</summary>
public static class GgufAdapterWriter
{
    /// <summary>Writes a file.</summary>
    /// <param name="path">The file; replaced only when the new one is complete.</param>
    /// <param name="adapter">The adapter.</param>
    /// <param name="baseConfig">config.json of its base model: architecture and heads.</param>
    /// <param name="type">F32, F16 or BF16.</param>
    /// <param name="name"><c>general.name</c>; null: left out.</param>
    /// <exception cref="LoraSharpException">The adapter has parts that llama.cpp's adapters cannot have; all are named.</exception>
    public static GgufExportResult Write(string path, AdapterFolder adapter, JsonObject baseConfig, GgufTensorType type, string? name = null)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        if (type is not (GgufTensorType.F32 or GgufTensorType.F16 or GgufTensorType.BF16))
        {
            throw new LoraSharpException($"factors of an adapter are written as f32, f16 or bf16, not {type.Name()}: their rows are as short as the rank.");
        }

        var config = new GgufModelConfig(adapter.Location, baseConfig);
        GgufArchitecture architecture = GgufArchitectures.Of(config);
        var names = new GgufNames(architecture);
        RefuseOtherParts(adapter, names, architecture);
        var metadata = new GgufMetadataWriter { Prefix = architecture.Name };
        metadata.Set("general.architecture", architecture.Name);
        metadata.Set("general.type", "adapter");
        if (name is not null)
        {
            metadata.Set("general.name", name);
        }

        metadata.Set("general.file_type", type switch { GgufTensorType.F32 => 0, GgufTensorType.F16 => 1, _ => 32 });
        metadata.Set("adapter.type", "lora");
        metadata.Set("adapter.lora.alpha", adapter.Config.Alpha);
        // Not needed by llama.cpp, which has the model at hand; without them the file could not be read back alone.
        int heads = config.Integer(config.Alias("num_attention_heads", "n_head"));
        metadata.Set(".attention.head_count", heads);
        metadata.Set(".attention.head_count_kv", config.IntegerOrNull("num_key_value_heads") ?? config.IntegerOrNull("num_kv_heads") ?? heads);

        var tensors = new List<GgufTensorToWrite>();
        foreach (AdapterTensor part in adapter.Parts)
        {
            (GgufTensorRule rule, int layer, _, _) = names.FromHuggingFace(part.Module + ".weight")!.Value;
            bool isA = part.Part is AdapterPart.LoraA or AdapterPart.EmbeddingA;
            string gguf = $"{GgufNames.Fill(rule.Gguf, layer)}.weight.lora_{(isA ? "a" : "b")}";
            long[] shape = part.Part == AdapterPart.EmbeddingA ? [part.Info.Shape[1], part.Info.Shape[0]] : [.. part.Info.Shape];
            var plan = new GgufExportTensor(gguf, shape, [part.Key])
            {
                Transpose = part.Part == AdapterPart.EmbeddingA,
                Rows = isA ? null : Rows(config, rule.Layout, part, heads),
            };
            tensors.Add(new(gguf, type, shape, stream => WriteRows(stream, adapter, plan, type, isA ? 1 : Factor(adapter, part))));
        }

        GgufWriter.Write(path, metadata, tensors);
        return new GgufExportResult(tensors.Count, new FileInfo(path).Length, Warnings(adapter));
    }

    /// <summary>
    /// llama.cpp scales by alpha / r with one alpha for all; what a module has beyond that (its own alpha, √r) goes into B.
    /// </summary>
    private static float Factor(AdapterFolder adapter, AdapterTensor part)
    {
        long rank = part.Info.Shape[1];
        return (float)(PeftMatching.ScalingOf(adapter.Config, part.Module, checked((int)rank)) / (adapter.Config.Alpha / rank));
    }

    private static List<string> Warnings(AdapterFolder adapter) =>
        adapter.Config.UseRsLora || adapter.Config.AlphaPattern.Count > 0
            ? ["scalings that differ from alpha / r (rslora, alpha_pattern) were multiplied into the factors B: llama.cpp knows one alpha only."]
            : [];

    private static void RefuseOtherParts(AdapterFolder adapter, GgufNames names, GgufArchitecture architecture)
    {
        var faults = new List<string>();
        if (adapter.Config.UseDora)
        {
            faults.Add("it is a DoRA adapter (magnitudes)");
        }

        if (adapter.Config.Alpha == 0)
        {
            faults.Add("its alpha is 0");
        }

        foreach (AdapterTensor part in adapter.Parts.Where(p => p.Part != AdapterPart.Magnitude))
        {
            if (part.Part is not (AdapterPart.LoraA or AdapterPart.LoraB or AdapterPart.EmbeddingA or AdapterPart.EmbeddingB))
            {
                faults.Add($"{part.Key} is more than a low-rank factor");
            }
            else if (names.FromHuggingFace(part.Module + ".weight") is not { Rule.Layout: not (GgufLayout.Experts or GgufLayout.GateUpExperts) })
            {
                faults.Add($"{part.Module} is no single matrix of the architecture {architecture.Name}");
            }
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException(
                $"{adapter.Location}: cannot be a GGUF adapter: {string.Join("; ", faults.Take(10))}{(faults.Count > 10 ? "; ..." : string.Empty)}. Export the merged model instead (without --adapter-only).");
        }
    }

    private static long[]? Rows(GgufModelConfig config, GgufLayout layout, AdapterTensor part, int heads)
    {
        long rows = part.Info.Shape[0];
        int groups = layout switch
        {
            GgufLayout.RotaryKey => config.IntegerOrNull("num_key_value_heads") ?? heads,
            GgufLayout.FalconQkv => config.FlagOrNull("new_decoder_architecture") == true ? config.Integer("num_kv_heads") : 1,
            _ => heads,
        };
        int parts = layout switch
        {
            GgufLayout.RotaryQuery or GgufLayout.RotaryKey => 2,
            GgufLayout.NeoxQkv => 3,
            GgufLayout.FalconQkv => (heads / groups) + 2,
            _ => 0,
        };
        if (parts == 0)
        {
            return null;
        }

        if (rows % ((long)groups * parts) != 0)
        {
            throw new MalformedFileException(config.Location, $"{part.Key} has {rows} rows, which {groups} heads or groups do not divide. Does the adapter belong to this base model?");
        }

        return GgufRowOrder.Inverse(parts == 2 ? GgufRowOrder.Rotary(rows, groups) : GgufRowOrder.GroupedQkv(rows, groups, parts - 2));
    }

    private static void WriteRows(Stream stream, AdapterFolder adapter, GgufExportTensor plan, GgufTensorType type, float factor)
    {
        var rows = new GgufRowReader(adapter.Tensors, plan);
        float[] row = new float[checked((int)rows.RowSize)];
        byte[] bytes = new byte[type.ByteCount(row.Length)];
        for (long i = 0; i < rows.Rows; i++)
        {
            rows.Read(i, row);
            if (factor != 1)
            {
                foreach (ref float value in row.AsSpan())
                {
                    value *= factor;
                }
            }

            GgufQuantizer.Quantize(type, row, bytes);
            stream.Write(bytes);
        }
    }
}
