using System.Text.Json.Nodes;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Formats.HuggingFace;

/// <summary>
/// A model as it lies on disk, whatever the container: a Hugging Face folder, a snapshot in the hub cache or a GGUF
/// file. Configuration and tensors have Hugging Face names either way.
/// </summary>
public sealed class ModelSource : IDisposable
{
    /// <summary>Creates the source; it owns <paramref name="tensors"/>.</summary>
    public ModelSource(string name, string location, JsonObject config, ITensorSource tensors)
    {
        Name = name;
        Location = location;
        Config = config;
        Tensors = tensors;
    }

    /// <summary>What the user called it: a path or a hub name. Goes into <c>base_model_name_or_path</c>.</summary>
    public string Name { get; }

    /// <summary>The folder or file it was found at.</summary>
    public string Location { get; }

    /// <summary><c>config.json</c>, or the same made from GGUF metadata.</summary>
    public JsonObject Config { get; }

    /// <summary>The weights under Hugging Face names.</summary>
    public ITensorSource Tensors { get; }

    /// <summary>The file of this name in the model's folder, or null when there is none (a GGUF file has none).</summary>
    public string? FindFile(string name)
    {
        string path = Path.Combine(Location, name);
        return File.Exists(path) ? path : null;
    }

    /// <summary>Opens a Hugging Face model folder.</summary>
    /// <param name="folder">The folder with <c>config.json</c> and safetensors weights.</param>
    /// <param name="name">What the user called it; null: the folder.</param>
    /// <exception cref="MalformedFileException">The folder or one of its files is missing or malformed.</exception>
    public static ModelSource OpenFolder(string folder, string? name = null)
    {
        string path = Path.Combine(folder, "config.json");
        if (!File.Exists(path))
        {
            throw NoModel(folder);
        }

        JsonObject config = JsonFile.ReadObject(path);
        return new ModelSource(name ?? folder, folder, config, SafetensorsCheckpoint.Open(folder));
    }

    private static MalformedFileException NoModel(string folder)
    {
        const string Expected = "Expected a Hugging Face model folder with config.json and model.safetensors, or a .gguf file.";
        if (!Directory.Exists(folder))
        {
            return new MalformedFileException(folder, $"{(File.Exists(folder) ? "is a file that is no .gguf." : "there is no such folder.")} {Expected}");
        }

        if (File.Exists(Path.Combine(folder, PeftConfig.FileName)))
        {
            return new MalformedFileException(folder, "is an adapter, not a model. Give it as --adapter, and as --model the base it was trained on.");
        }

        string[] models = [.. Directory.EnumerateFiles(folder, "*.gguf"), .. Directory.EnumerateDirectories(folder).Where(d => File.Exists(Path.Combine(d, "config.json")))];
        return new MalformedFileException(folder, "has no config.json. " + (models.Length == 0
            ? Expected
            : $"Models lie in {string.Join(", ", models.Order(StringComparer.Ordinal).Take(5))}: name one of them."));
    }

    /// <summary>Unmaps the weights: no tensor laid over them may be used afterwards.</summary>
    public void Dispose() => Tensors.Dispose();
}
