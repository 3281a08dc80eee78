using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Merging;

/// <summary>What is different in the copy of a checkpoint.</summary>
internal sealed record CopyPlan
{
    /// <summary>New tensors, each starting from the value of an old one.</summary>
    public IReadOnlyList<(string Name, string From)> Added { get; init; } = [];

    /// <summary>Type to store a tensor in.</summary>
    public required Func<TensorInfo, ElementType> Type { get; init; }

    /// <summary>Whether a tensor's value changes.</summary>
    public required Func<string, bool> Changes { get; init; }

    /// <summary>The new value of one that does, from the old one in float32.</summary>
    public required Func<string, Tensor, Tensor> Value { get; init; }

    /// <summary>Told old and new value and the type that the new one is rounded to.</summary>
    public Action<Tensor, Tensor, ElementType> Rounded { get; init; } = (_, _, _) => { };

    /// <summary>Adjusts <c>config.json</c>.</summary>
    public Action<JsonObject> Config { get; init; } = _ => { };

    /// <summary>Told tensors written and their number.</summary>
    public Action<int, int>? Progress { get; init; }
}

/// <summary>Writes a checkpoint anew, one tensor in memory at a time, in the shards of the old one.</summary>
internal static class CheckpointCopy
{
    private static readonly string[] WeightEndings = [".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", "safetensors.index.json", "bin.index.json"];

    public static void Write(ModelSource model, string output, CopyPlan plan) => OutputFolder.Write(output, folder =>
    {
        HostAllocator.ReturnLargeBlocks();
        IReadOnlyList<(string File, IReadOnlyList<string> Tensors)> shards = Shards(model.Tensors, plan.Added);
        int total = shards.Sum(s => s.Tensors.Count);
        int done = 0;
        long bytes = 0;
        var places = new JsonObject();
        foreach ((string file, IReadOnlyList<string> tensors) in shards)
        {
            var writes = new List<TensorToWrite>();
            foreach (string name in tensors)
            {
                string from = plan.Added.FirstOrDefault(a => a.Name == name).From ?? name;
                TensorInfo source = model.Tensors.Tensors[from];
                var info = new TensorInfo(name, plan.Type(source), source.Shape);
                places[name] = file;
                bytes += info.ByteCount;
                writes.Add(new(info, stream =>
                {
                    Copy(model.Tensors, from, info, plan, stream);
                    plan.Progress?.Invoke(++done, total);
                }));
            }

            SafetensorsWriter.Write(Path.Combine(folder, file), writes, new Dictionary<string, string> { ["format"] = "pt" });
        }

        if (shards.Count > 1)
        {
            var sorted = new JsonObject(places.OrderBy(p => p.Key, StringComparer.Ordinal).Select(p => KeyValuePair.Create(p.Key, p.Value?.DeepClone())));
            var index = new JsonObject { ["metadata"] = new JsonObject { ["total_size"] = bytes }, ["weight_map"] = sorted };
            AtomicFile.WriteText(Path.Combine(folder, "model.safetensors.index.json"), index.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
        }

        var config = (JsonObject)model.Config.DeepClone();
        plan.Config(config);
        AtomicFile.WriteText(Path.Combine(folder, "config.json"), config.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
        CopyCompanions(model.Location, folder);
    });

    private static unsafe void Copy(ITensorSource source, string from, TensorInfo info, CopyPlan plan, Stream stream)
    {
        TensorData data = source.Read(from);
        try
        {
            Copy(data, info, plan, stream);
        }
        finally
        {
            if (data.IsMapped)
            {
                // It is read once: what stays mapped would add up to the whole file.
                MappedPages.Release((nint)data.MappedPointer, data.Info.ByteCount);
            }
        }
    }

    private static void Copy(TensorData data, TensorInfo info, CopyPlan plan, Stream stream)
    {
        bool changes = plan.Changes(info.Name);
        if (!changes && data.Info.Type == info.Type)
        {
            TensorToWrite.From(data).Write(stream);
            return;
        }

        using var scope = NewDisposeScope();
        using Tensor stored = TensorBytes.ToTensor(data, null, CPU);
        if (!changes)
        {
            TensorBytes.CopyTo(stored.to(info.Type.ToScalarType()), stream);
            return;
        }

        Tensor before = stored.to(ScalarType.Float32);
        Tensor after = plan.Value(info.Name, before);
        if (!after.isfinite().all().item<bool>())
        {
            throw new LoraSharpException($"{info.Name}: the result holds NaN or infinite values. The adapter or its weight is broken; nothing was written.");
        }

        plan.Rounded(before, after, info.Type);
        TensorBytes.CopyTo(after.to(info.Type.ToScalarType()), stream);
    }

    // The old files; what is new goes into the last.
    private static List<(string File, IReadOnlyList<string> Tensors)> Shards(ITensorSource source, IReadOnlyList<(string Name, string From)> added)
    {
        List<(string File, IReadOnlyList<string> Tensors)> shards = source is SafetensorsCheckpoint { Files.Count: > 1 } sharded
            ? [.. sharded.Files.Select(f => (Path.GetFileName(f.Location), (IReadOnlyList<string>)[.. f.Tensors.Keys]))]
            : [("model.safetensors", [.. source.Tensors.Keys])];
        shards[^1] = (shards[^1].File, [.. shards[^1].Tensors, .. added.Select(a => a.Name)]);
        return shards;
    }

    private static void CopyCompanions(string location, string folder)
    {
        if (!Directory.Exists(location))
        {
            return;
        }

        foreach (string file in Directory.EnumerateFiles(location).Order(StringComparer.Ordinal))
        {
            string name = Path.GetFileName(file);
            if (name is "config.json" or "README.md" || name.StartsWith('.')
                || WeightEndings.Any(e => name.EndsWith(e, StringComparison.OrdinalIgnoreCase)))
            {
                continue;
            }

            File.Copy(file, Path.Combine(folder, name));
        }
    }
}
