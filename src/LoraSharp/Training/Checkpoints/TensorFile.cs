using LoraSharp.Formats;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Training.Checkpoints;

/// <summary>Named tensors to a safetensors file and back, bit by bit.</summary>
internal static class TensorFile
{
    public static void Write(string path, IEnumerable<NamedTensor> tensors) =>
        SafetensorsWriter.Write(path, tensors.Select(t => new TensorToWrite(
            new TensorInfo(t.Name, t.Value.dtype.ToElementType(), [.. t.Value.shape]), stream => TensorBytes.CopyTo(t.Value, stream))));

    /// <summary>Copies the file's tensors into those given; every difference in names and shapes is listed.</summary>
    public static void ReadInto(string path, IReadOnlyList<NamedTensor> tensors)
    {
        using SafetensorsFile file = SafetensorsFile.Open(path);
        List<string> faults = [.. tensors.Where(t => !file.Tensors.ContainsKey(t.Name)).Select(t => $"missing: {t.Name}")];
        faults.AddRange(file.Tensors.Keys.Except(tensors.Select(t => t.Name)).Select(n => $"left over: {n}"));
        faults.AddRange(tensors.Where(t => file.Tensors.TryGetValue(t.Name, out TensorInfo? info) && !info.Shape.SequenceEqual(t.Value.shape))
            .Select(t => $"shape: {t.Name} is [{string.Join(", ", t.Value.shape)}] now, {file.Tensors[t.Name].ShapeText} in the file"));
        if (faults.Count > 0)
        {
            throw new MalformedFileException(path, $"does not fit what is trained now ({faults.Count} faults):\n  {string.Join("\n  ", faults.Take(20))}");
        }

        using var none = no_grad();
        using var scope = NewDisposeScope();
        foreach (NamedTensor tensor in tensors)
        {
            using Tensor stored = TensorBytes.ToTensor(file.Read(tensor.Name), null, CPU);
            tensor.Value.copy_(stored);
        }
    }
}
