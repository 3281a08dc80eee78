namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>Tensors put together from a file by plans; owns the file.</summary>
internal sealed unsafe class GgufPlannedTensors(GgufShards file, IReadOnlyDictionary<string, GgufTensorPlan> plans) : ITensorSource
{
    public string Location => file.Location;

    public IReadOnlyDictionary<string, TensorInfo> Tensors { get; } = plans.ToDictionary(p => p.Key, p => p.Value.Info, StringComparer.Ordinal);

    public TensorData Read(string name)
    {
        GgufTensorPlan plan = plans.TryGetValue(name, out GgufTensorPlan? found) ? found : throw new MalformedFileException(Location, $"has no tensor '{name}'.");
        if (plan.IsInPlace)
        {
            return new TensorData(plan.Info, plan.Sources[0].Pointer);
        }

        byte[] bytes = new byte[plan.Info.ByteCount];
        fixed (byte* output = bytes)
        {
            plan.Read(output);
        }

        return new TensorData(plan.Info, bytes);
    }

    public void Dispose() => file.Dispose();
}
