using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>What comes of a run, as others load it: a PEFT folder, or a Hugging Face checkpoint.</summary>
internal static class TrainedModelWriter
{
    /// <summary>Writes into a folder what a run trained.</summary>
    /// <param name="loaded">The trained model.</param>
    /// <param name="folder">The run folder, or a checkpoint's.</param>
    /// <param name="full">Whether every weight was trained; else the adapter is written.</param>
    public static void Write(LoadedModel loaded, string folder, bool full)
    {
        if (!full)
        {
            _ = AdapterWriter.Write(loaded.Adapters[AdapterSet.DefaultName], folder, loaded.Adapters.Base);
            return;
        }

        // Each tensor in the type the base stores it in; what full fine-tuning does not touch travels along.
        SafetensorsWriter.Write(
            Path.Combine(folder, "model.safetensors"),
            loaded.Model.Parameters.DistinctBy(p => p.Name).Where(p => loaded.Source.Tensors.Tensors.ContainsKey(p.Name)).Select(p => ToWrite(p, loaded.Source.Tensors.Tensors[p.Name].Type)),
            new Dictionary<string, string> { ["format"] = "pt" });
        foreach (string file in Directory.EnumerateFiles(loaded.Source.Location).Where(f => IsCompanion(Path.GetFileName(f))))
        {
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)), overwrite: true);
        }
    }

    private static bool IsCompanion(string name) =>
        (name.EndsWith(".json", StringComparison.Ordinal) || name.EndsWith(".jinja", StringComparison.Ordinal) || name is "tokenizer.model" or "merges.txt" or "vocab.txt")
        && !name.EndsWith(".index.json", StringComparison.Ordinal) && name is not "golden.json";

    private static TensorToWrite ToWrite(NamedTensor parameter, ElementType stored) => new(
        new TensorInfo(parameter.Name, stored, parameter.Value.shape),
        stream =>
        {
            using IDisposable none = no_grad();
            using Tensor typed = parameter.Value.detach().to(stored.ToScalarType());
            TensorBytes.CopyTo(typed, stream);
        });
}
