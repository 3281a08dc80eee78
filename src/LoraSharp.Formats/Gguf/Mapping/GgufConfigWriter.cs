using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>Writes the settings of a config.json as metadata.</summary>
internal static class GgufConfigWriter
{
    /// <summary>Writes everything under the architecture's prefix; gives the tensors of rotary factors that go with it.</summary>
    public static IReadOnlyList<(string Name, float[] Values)> Write(GgufModelConfig config, GgufArchitecture architecture, GgufMetadataWriter writer)
    {
        CheckConstants(config, architecture);
        writer.Prefix = architecture.Name;
        foreach (GgufField field in architecture.Fields)
        {
            string key = field.Alias is { } alias ? config.Alias(field.HuggingFace, alias) : field.HuggingFace;
            if (!config.Has(key))
            {
                if (field.HuggingFace == "num_key_value_heads")
                {
                    writer.Set(".attention.head_count_kv", config.Integer("num_attention_heads"));
                }
                else if (field.IsRequired)
                {
                    throw new MalformedFileException(config.Location, $"config.json has no {field.HuggingFace}, which becomes {architecture.Name}.{field.Gguf}.");
                }

                continue;
            }

            switch (field.Kind)
            {
                case GgufFieldKind.Integer:
                    writer.Set("." + field.Gguf, config.Integer(key));
                    break;
                case GgufFieldKind.Number:
                    writer.Set("." + field.Gguf, config.Number(key));
                    break;
                default:
                    writer.Set("." + field.Gguf, config.FlagOrNull(key)!.Value);
                    break;
            }
        }

        if (architecture.HeadSizeKey is not null)
        {
            int size = config.HeadSize(architecture);
            writer.Set(".attention.key_length", size);
            writer.Set(".attention.value_length", size);
        }

        IReadOnlyList<(string, float[])> factors = architecture.HasRope ? [.. GgufRope.Write(config, architecture, writer)] : [];
        architecture.WriteMore?.Invoke(config, writer);
        return factors;
    }

    private static void CheckConstants(GgufModelConfig config, GgufArchitecture architecture)
    {
        string[] differing =
        [
            .. architecture.Constants
                .Where(c => config.Has(c.Key) && !Agrees(architecture, c.Key, c.Value, config.Json[c.Key]!))
                .Select(c => $"{c.Key} is {config.Json[c.Key]!.ToJsonString()}, llama.cpp's {architecture.Name} has {c.Value?.ToJsonString() ?? "null"}"),
        ];
        if (architecture.HeadSizeKey is null && config.IntegerOrNull("head_dim") is { } size
            && config.Integer(config.Alias("hidden_size", "n_embd")) / config.Integer(config.Alias("num_attention_heads", "n_head")) is var usual && size != usual)
        {
            differing = [.. differing, $"head_dim is {size}, llama.cpp's {architecture.Name} has hidden size / heads, {usual}"];
        }

        if (differing.Length > 0)
        {
            throw new LoraSharpException($"{config.Location}: the model cannot be exported to GGUF: {string.Join("; ", differing)}.");
        }
    }

    private static bool Agrees(GgufArchitecture architecture, string key, JsonNode? wanted, JsonNode found)
    {
        if (JsonNode.DeepEquals(wanted, found))
        {
            return true;
        }

        if (wanted is JsonValue a && found is JsonValue b && a.TryGetValue(out string? expected) && b.TryGetValue(out string? given))
        {
            // Three names of the tanh approximation; Gemma's first configurations say gelu and mean it too.
            string[] tanh = ["gelu_pytorch_tanh", "gelu_new", "gelu_fast"];
            return tanh.Contains(expected) && (tanh.Contains(given) || (architecture.ModelType == "gemma" && given == "gelu"));
        }

        // Numbers of the program and numbers of a file are different kinds of node.
        return wanted is not null && wanted.ToJsonString() == found.ToJsonString();
    }
}
