using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Safetensors;

/// <summary>Writes the weights of a Hugging Face folder, in shards when they are large.</summary>
public static class SafetensorsFolder
{
    /// <summary>Bytes of a shard at most, as transformers has it; a larger tensor gets a shard of its own.</summary>
    public const long ShardBytes = 5_000_000_000;

    /// <summary>
    /// Writes <c>model.safetensors</c>, or <c>model-00001-of-0000N.safetensors</c> and their index, whose tensors keep
    /// the given order. The index comes last, so that an interrupted write is not taken for a model.
    /// </summary>
    /// <param name="folder">Created when missing.</param>
    /// <param name="tensors">Their bytes are asked for one after the other.</param>
    /// <param name="shardBytes">Largest shard.</param>
    public static void Write(string folder, IReadOnlyList<TensorToWrite> tensors, long shardBytes = ShardBytes)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        Dictionary<string, string> metadata = new() { ["format"] = "pt" };
        List<List<TensorToWrite>> shards = [];
        long size = long.MaxValue;
        foreach (TensorToWrite tensor in tensors)
        {
            if (shards.Count == 0 || size + tensor.Info.ByteCount > shardBytes)
            {
                shards.Add([]);
                size = 0;
            }

            shards[^1].Add(tensor);
            size += tensor.Info.ByteCount;
        }

        Directory.CreateDirectory(folder);
        string single = Path.Combine(folder, "model.safetensors");
        string index = single + ".index.json";
        if (shards.Count <= 1)
        {
            SafetensorsWriter.Write(single, tensors, metadata);
            File.Delete(index);
            return;
        }

        var map = new SortedDictionary<string, string>(StringComparer.Ordinal);
        for (int i = 0; i < shards.Count; i++)
        {
            string name = FormattableString.Invariant($"model-{i + 1:D5}-of-{shards.Count:D5}.safetensors");
            SafetensorsWriter.Write(Path.Combine(folder, name), shards[i], metadata);
            shards[i].ForEach(t => map.Add(t.Info.Name, name));
        }

        var root = new JsonObject
        {
            ["metadata"] = new JsonObject { ["total_size"] = tensors.Sum(t => t.Info.ByteCount) },
            ["weight_map"] = new JsonObject(map.Select(p => KeyValuePair.Create(p.Key, (JsonNode?)p.Value))),
        };
        AtomicFile.WriteText(index, root.ToJsonString(new() { WriteIndented = true }) + "\n");
        File.Delete(single);
    }
}
