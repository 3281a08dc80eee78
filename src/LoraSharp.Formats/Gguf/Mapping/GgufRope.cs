using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>Rotary position settings between config.json (as transformers 4 or 5 write them) and the file.</summary>
internal static class GgufRope
{
    public const string FactorsTensor = "rope_freqs.weight";
    public const string LongTensor = "rope_factors_long.weight";
    public const string ShortTensor = "rope_factors_short.weight";

    /// <summary>Adds <c>rope_theta</c>, <c>rope_scaling</c> and <c>partial_rotary_factor</c> to a config.json in transformers 4's form, which transformers 5 reads too.</summary>
    public static void Read(GgufModelMetadata metadata, GgufArchitecture architecture, JsonObject config, int headSize, Func<string, float[]> readTensor)
    {
        config["rope_theta"] = metadata.NumberOrNull("rope.freq_base") ?? 10000.0;
        int rotated = metadata.IntegerOrNull("rope.dimension_count") ?? headSize;
        if (architecture.PartialRotary)
        {
            config["partial_rotary_factor"] = (double)rotated / headSize;
        }
        else if (rotated != headSize)
        {
            throw new MalformedFileException(metadata.File.Location, $"{architecture.Name}.rope.dimension_count is {rotated}, but heads have {headSize} and the architecture {architecture.Name} rotates whole heads.");
        }

        int context = metadata.Integer("context_length");
        if (Scaling(metadata, config, rotated, context, readTensor) is { } scaling)
        {
            config["rope_scaling"] = scaling;
        }
    }

    /// <summary>Theta, the scaling's settings (empty: none) and the partial rotary factor of a config.json of either form.</summary>
    public static (double Theta, JsonObject Scaling, double Partial) Parameters(GgufModelConfig config)
    {
        JsonObject? parameters = config.Json["rope_parameters"] as JsonObject;
        if (parameters?["full_attention"] is JsonObject full)
        {
            parameters = full;
        }

        var scaling = (JsonObject)((parameters ?? config.Json["rope_scaling"] as JsonObject)?.DeepClone() ?? new JsonObject());
        double theta = config.Number(scaling, "rope_theta") ?? config.NumberOrNull("rope_theta") ?? config.NumberOrNull("rotary_emb_base") ?? 10000.0;
        double partial = config.Number(scaling, "partial_rotary_factor") ?? config.NumberOrNull("partial_rotary_factor") ?? config.NumberOrNull("rotary_pct") ?? 1.0;
        return (theta, scaling, partial);
    }

    /// <summary>Writes the metadata; gives the tensors that go with it.</summary>
    public static IEnumerable<(string Name, float[] Values)> Write(GgufModelConfig config, GgufArchitecture architecture, GgufMetadataWriter writer)
    {
        int headSize = config.HeadSize(architecture);
        (double theta, JsonObject scaling, double partial) = Parameters(config);
        int rotated = (int)(headSize * partial);
        if (rotated != headSize && !architecture.PartialRotary)
        {
            throw new LoraSharpException($"{config.Location}: the model cannot be exported to GGUF: partial_rotary_factor is {partial}, llama.cpp's {architecture.Name} rotates whole heads.");
        }

        writer.Set(".rope.dimension_count", rotated);
        writer.Set(".rope.freq_base", theta);
        string type = (string?)scaling["rope_type"] ?? (string?)scaling["type"] ?? "default";
        double Need(string key) => config.Number(scaling, key) ?? throw new MalformedFileException(config.Location, $"config.json: rope scaling of type {type} has no {key}.");
        int original = (int)(config.Number(scaling, "original_max_position_embeddings") ?? config.NumberOrNull("original_max_position_embeddings") ?? config.Integer("max_position_embeddings"));
        switch (type)
        {
            case "default":
                return [];
            case "linear":
                writer.Set(".rope.scaling.type", "linear");
                writer.Set(".rope.scaling.factor", Need("factor"));
                return [];
            case "yarn":
                if (scaling["truncate"] is JsonValue truncate && truncate.TryGetValue(out bool whole) && !whole)
                {
                    throw new LoraSharpException($"{config.Location}: the model cannot be exported to GGUF: yarn's truncate is false, llama.cpp rounds the bounds of the ramp.");
                }

                double factor = config.Number(scaling, "factor") ?? ((double)config.Integer("max_position_embeddings") / original);
                writer.Set(".rope.scaling.type", "yarn");
                writer.Set(".rope.scaling.factor", factor);
                writer.Set(".rope.scaling.original_context_length", original);
                double attention = YarnAttention(config, scaling, factor);
                if (attention != YarnTemperature(factor))
                {
                    // llama.cpp multiplies the usual temperature by it.
                    writer.Set(".rope.scaling.attn_factor", attention / YarnTemperature(factor));
                }

                WriteOptional("beta_fast", ".rope.scaling.yarn_beta_fast");
                WriteOptional("beta_slow", ".rope.scaling.yarn_beta_slow");
                return [];
            case "llama3":
                // The converter of llama.cpp bakes these into factors and drops them; this key lets them be read back.
                writer.Set(".rope.scaling.original_context_length", original);
                return [(FactorsTensor, GgufLlama3Rope.Factors(theta, rotated, Need("factor"), Need("low_freq_factor"), Need("high_freq_factor"), original))];
            case "longrope" or "su":
                writer.Set(".rope.scaling.original_context_length", original);
                writer.Set(".rope.scaling.attn_factor", config.Number(scaling, "attention_factor") ?? LongRopeAttention(config.Integer("max_position_embeddings"), original));
                return [(LongTensor, Floats(config, scaling, "long_factor", rotated)), (ShortTensor, Floats(config, scaling, "short_factor", rotated))];
            default:
                throw new LoraSharpException($"{config.Location}: rope scaling of type '{type}' has no counterpart in GGUF (default, linear, yarn, llama3 and longrope have), so the model cannot be exported.");
        }

        void WriteOptional(string key, string gguf)
        {
            if (config.Number(scaling, key) is { } value)
            {
                writer.Set(gguf, value);
            }
        }
    }

    private static JsonObject? Scaling(GgufModelMetadata metadata, JsonObject config, int rotated, int context, Func<string, float[]> readTensor)
    {
        int? original = metadata.IntegerOrNull("rope.scaling.original_context_length");
        if (metadata.File.Tensors.ContainsKey(LongTensor) && metadata.File.Tensors.ContainsKey(ShortTensor))
        {
            config["original_max_position_embeddings"] = original ?? context;
            var scaling = new JsonObject { ["rope_type"] = "longrope", ["long_factor"] = Numbers(readTensor(LongTensor)), ["short_factor"] = Numbers(readTensor(ShortTensor)) };
            // transformers computes it from the two lengths; only another value is worth keeping.
            if (metadata.NumberOrNull("rope.scaling.attn_factor") is { } attention && Math.Abs(attention - LongRopeAttention(context, original ?? context)) > 1e-6)
            {
                scaling["attention_factor"] = attention;
            }

            return scaling;
        }

        if (metadata.File.Tensors.ContainsKey(FactorsTensor))
        {
            float[] factors = readTensor(FactorsTensor);
            return GgufLlama3Rope.Recover(factors, (double)config["rope_theta"]!, rotated, original)
                ?? new JsonObject
                {
                    // Any other table of factors is what longrope does with equal factors and no temperature.
                    ["rope_type"] = "longrope",
                    ["long_factor"] = Numbers(factors),
                    ["short_factor"] = Numbers(factors),
                    ["attention_factor"] = 1.0,
                    ["original_max_position_embeddings"] = context,
                };
        }

        string type = metadata.Find("rope.scaling.type")?.AsString() ?? (metadata.Has("rope.scale_linear") ? "linear" : "none");
        switch (type)
        {
            case "none" or "longrope":
                return null;
            case "linear":
                double factor = metadata.NumberOrNull("rope.scaling.factor") ?? metadata.NumberOrNull("rope.scale_linear") ?? 1.0;
                return factor is 0 or 1 ? null : new JsonObject { ["rope_type"] = "linear", ["factor"] = factor };
            case "yarn":
                var yarn = new JsonObject { ["rope_type"] = "yarn", ["factor"] = metadata.NumberOrNull("rope.scaling.factor") ?? 1.0, ["original_max_position_embeddings"] = original ?? context };
                if (metadata.NumberOrNull("rope.scaling.attn_factor") is { } share and not 1)
                {
                    yarn["attention_factor"] = share * YarnTemperature((double)yarn["factor"]!);
                }

                Optional(yarn, "beta_fast", "rope.scaling.yarn_beta_fast");
                Optional(yarn, "beta_slow", "rope.scaling.yarn_beta_slow");
                return yarn;
            default:
                throw new MalformedFileException(metadata.File.Location, $"rope.scaling.type is '{type}', expected none, linear, yarn or longrope.");
        }

        void Optional(JsonObject to, string key, string gguf)
        {
            if (metadata.NumberOrNull(gguf) is { } value)
            {
                to[key] = value;
            }
        }
    }

    /// <summary>YaRN's factor on cosines and sines as transformers resolves it; the two 'mscale's are DeepSeek's.</summary>
    private static double YarnAttention(GgufModelConfig config, JsonObject scaling, double factor) =>
        config.Number(scaling, "attention_factor")
        ?? (config.Number(scaling, "mscale") is { } one and not 0 && config.Number(scaling, "mscale_all_dim") is { } all and not 0
            ? YarnTemperature(factor, one) / YarnTemperature(factor, all)
            : YarnTemperature(factor));

    /// <summary>YaRN (Peng et al. 2023, section 3.4): 0.1·m·ln(s) + 1.</summary>
    private static double YarnTemperature(double factor, double mscale = 1) => factor <= 1 ? 1 : (0.1 * mscale * Math.Log(factor)) + 1;

    /// <summary>LongRoPE (Ding et al. 2024, §3): √(1 + ln(s)/ln(L)).</summary>
    private static double LongRopeAttention(int context, int original)
    {
        double scale = (double)context / original;
        return scale <= 1 ? 1.0 : Math.Sqrt(1 + (Math.Log(scale) / Math.Log(original)));
    }

    private static JsonArray Numbers(float[] values) => [.. values.Select(v => (JsonNode)double.Parse(v.ToString("R", System.Globalization.CultureInfo.InvariantCulture), System.Globalization.CultureInfo.InvariantCulture))];

    private static float[] Floats(GgufModelConfig config, JsonObject scaling, string key, int rotated)
    {
        float[] values = scaling[key] is JsonArray array ? [.. array.Select(n => (float)(double)n!)] : [];
        return values.Length == rotated / 2
            ? values
            : throw new MalformedFileException(config.Location, $"config.json: {key} has {values.Length} factors, expected {rotated / 2} (half of the rotated part of a head).");
    }
}
