using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>Writes tensors with PEFT's keys and a configuration as an adapter folder that is whole or not there.</summary>
internal static class AdapterFolderWriter
{
    /// <summary>Writes the folder under another name first, then renames it.</summary>
    /// <param name="folder">Must not exist, or be empty.</param>
    /// <param name="config">The configuration.</param>
    /// <param name="tensors">Key and value; left to the caller to dispose.</param>
    /// <param name="dtype">Type to store.</param>
    /// <param name="metadata">More metadata than <c>format: pt</c>.</param>
    public static void Write(string folder, PeftConfig config, IEnumerable<(string Key, Tensor Value)> tensors, ScalarType dtype = ScalarType.Float32, IEnumerable<KeyValuePair<string, string>>? metadata = null)
    {
        OutputFolder.Write(folder, aside =>
        {
            config.Write(aside);
            var all = new Dictionary<string, string>(metadata ?? [], StringComparer.Ordinal) { ["format"] = "pt" };
            SafetensorsWriter.Write(Path.Combine(aside, AdapterFolder.WeightsName), tensors.Select(t => ToWrite(t.Key, t.Value, dtype)), all);
        });
    }

    public static TensorToWrite ToWrite(string key, Tensor value, ScalarType dtype)
    {
        ElementType type = value.is_floating_point() ? dtype.ToElementType() : value.dtype.ToElementType();
        return new(new TensorInfo(key, type, value.shape), stream =>
        {
            using var scope = NewDisposeScope();
            TensorBytes.CopyTo(value.is_floating_point() ? value.detach().to(dtype) : value.detach(), stream);
        });
    }
}
