using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>Which layers see a sliding window: <c>layer_types</c> in config.json, a period that llama.cpp knows by the architecture in GGUF.</summary>
internal static class GgufLayerTypes
{
    private const string Sliding = "sliding_attention";
    private const string Full = "full_attention";

    /// <summary>Adds <c>layer_types</c> and <c>sliding_window</c>.</summary>
    /// <param name="metadata">The file.</param>
    /// <param name="config">Where to.</param>
    /// <param name="period">All but every <paramref name="period"/>th layer slide, unless the file says otherwise.</param>
    public static void Read(GgufModelMetadata metadata, JsonObject config, int period)
    {
        if (metadata.IntegerOrNull("attention.sliding_window") is not (> 0 and int window))
        {
            return;
        }

        config["sliding_window"] = window;
        int layers = metadata.Integer("block_count");
        bool[] sliding = [.. Enumerable.Range(0, layers).Select(i => Slides(i, period))];
        if (metadata.Find("attention.sliding_window_pattern") is { } pattern)
        {
            if (pattern.Type == GgufValueType.Array)
            {
                long[] flags = pattern.AsIntegers();
                sliding = flags.Length >= layers
                    ? [.. flags.Take(layers).Select(f => f != 0)]
                    : throw new MalformedFileException(metadata.File.Location, $"'{pattern.Key}' has {flags.Length} entries for {layers} layers.");
            }
            else
            {
                int given = pattern.AsInt32();
                sliding = [.. Enumerable.Range(0, layers).Select(i => Slides(i, given))];
            }
        }

        config["layer_types"] = new JsonArray([.. sliding.Select(s => (JsonNode)(s ? Sliding : Full))]);
    }

    /// <summary>Writes window and, where it is not the architecture's own, the pattern.</summary>
    public static void Write(GgufModelConfig config, GgufMetadataWriter writer, int period)
    {
        if (config.IntegerOrNull("sliding_window") is not (> 0 and int window))
        {
            return;
        }

        int layers = config.Integer("num_hidden_layers");
        int own = config.IntegerOrNull("sliding_window_pattern") ?? config.IntegerOrNull("_sliding_window_pattern") ?? period;
        bool[] sliding = config.Json["layer_types"] is JsonArray types
            ? [.. types.Select(t => (string?)t == Sliding)]
            : [.. Enumerable.Range(0, layers).Select(i => Slides(i, own))];
        if (sliding.Length != layers)
        {
            throw new MalformedFileException(config.Location, $"config.json: layer_types has {sliding.Length} entries, num_hidden_layers is {layers}.");
        }

        if (!sliding.Any(s => s))
        {
            return;
        }

        writer.Set(".attention.sliding_window", window);
        if (!sliding.SequenceEqual(Enumerable.Range(0, layers).Select(i => Slides(i, period))))
        {
            writer.Set(".attention.sliding_window_pattern", sliding);
            config.Warnings.Add($"layer_types is not the pattern llama.cpp has for this architecture (all but every {period}th layer slide); versions that ignore sliding_window_pattern compute something else beyond {window} tokens.");
        }
    }

    private static bool Slides(int layer, int period) => period > 0 && layer % period < period - 1;
}
