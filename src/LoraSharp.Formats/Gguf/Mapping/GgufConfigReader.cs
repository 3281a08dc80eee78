using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>Makes config.json from a file's metadata.</summary>
internal static class GgufConfigReader
{
    public static JsonObject Read(GgufShards file, GgufArchitecture architecture, GgufModelMetadata metadata, Func<string, float[]> readTensor)
    {
        var config = new JsonObject { ["architectures"] = new JsonArray(architecture.ClassName), ["model_type"] = architecture.ModelType };
        foreach (GgufField field in architecture.Fields)
        {
            if (field.IsRequired && !metadata.Has(field.Gguf))
            {
                throw new MalformedFileException(file.Location, $"has no metadata '{architecture.Name}.{field.Gguf}', which becomes {field.HuggingFace}.");
            }

            if (metadata.Find(field.Gguf) is { } value)
            {
                config[field.HuggingFace] = field.Kind switch
                {
                    GgufFieldKind.Integer => metadata.Integer(field.Gguf),
                    GgufFieldKind.Number => value.AsDouble(),
                    _ => value.AsBool(),
                };
                if (field.Alias is { } alias)
                {
                    config[alias] = config[field.HuggingFace]!.DeepClone();
                }
            }
        }

        foreach ((string key, JsonNode? constant) in architecture.Constants)
        {
            config[key] = constant?.DeepClone();
        }

        int headSize = HeadSize(file, metadata);
        if (architecture.HeadSizeKey is { } headSizeKey)
        {
            config[headSizeKey] = headSize;
        }

        if (architecture.HasRope)
        {
            GgufRope.Read(metadata, architecture, config, headSize, readTensor);
        }

        architecture.ReadMore?.Invoke(metadata, config);
        config["vocab_size"] = VocabularySize(file);
        // A model whose output is its embedding has no output.weight; GPT-2's is a copy.
        config["tie_word_embeddings"] = architecture.MayTie && (architecture.ModelType == "gpt2" || !file.Tensors.ContainsKey("output.weight"));
        foreach ((string key, string gguf) in (ReadOnlySpan<(string, string)>)[("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")])
        {
            config[key] = file.Find($"tokenizer.ggml.{gguf}_token_id") is { } id ? id.AsInt64() : null;
        }

        // Parsed again, so that a number is read as whatever kind of number its reader wants, as from a real file.
        return (JsonObject)JsonNode.Parse(config.ToJsonString())!;
    }

    private static int HeadSize(GgufShards file, GgufModelMetadata metadata)
    {
        int heads = metadata.Integer("attention.head_count");
        int hidden = metadata.Integer("embedding_length");
        if (heads <= 0 || hidden <= 0)
        {
            throw new MalformedFileException(file.Location, $"attention.head_count is {heads} and embedding_length {hidden}; both must be positive.");
        }

        int size = metadata.IntegerOrNull("attention.key_length") ?? hidden / heads;
        return size > 0 ? size : throw new MalformedFileException(file.Location, $"the size of a head is {size}, expected at least 1.");
    }

    private static long VocabularySize(GgufShards file) => file.Tensors.TryGetValue("token_embd.weight", out GgufTensorInfo? embedding) && embedding.Shape.Count == 2
        ? embedding.Shape[0]
        : throw new MalformedFileException(file.Location, "has no matrix token_embd.weight, so the size of the vocabulary is unknown.");
}
