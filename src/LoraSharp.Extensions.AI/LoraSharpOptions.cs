using LoraSharp.Formats;
using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Extensions.AI;

/// <summary>What is served in process: a base model and the adapters on it.</summary>
public sealed class LoraSharpOptions
{
    /// <summary>The base: a Hugging Face folder, a .gguf file, or a hub name in the local cache.</summary>
    public string Model { get; set; } = "";

    /// <summary>What <c>ModelId</c> calls the base; null: as <see cref="Model"/> says. Without a <c>ModelId</c> the base answers.</summary>
    public string? ModelName { get; set; }

    /// <summary>Adapters by the name that <c>ModelId</c> calls them: PEFT folders, .gguf files or hub names.</summary>
    public IDictionary<string, string> Adapters { get; } = new Dictionary<string, string>(StringComparer.Ordinal);

    /// <summary>float32 or bfloat16; default float32.</summary>
    public string DType { get; set; } = "float32";

    /// <summary>cpu, cuda, cuda:n or auto; default auto.</summary>
    public string Device { get; set; } = "auto";

    /// <summary>nf4, q8 or none; default none.</summary>
    public string Quantize { get; set; } = "none";

    /// <summary>Most tokens of an answer where a request says nothing; default 512.</summary>
    public int DefaultMaxTokens { get; set; } = 512;

    /// <summary>How a text becomes one vector; default mean.</summary>
    public EmbeddingPooling Pooling { get; set; } = EmbeddingPooling.Mean;

    /// <summary>Bounds of batch, queue and caches.</summary>
    public EngineLimits Limits { get; set; } = new();

    /// <summary>Fails with every value that is out of range.</summary>
    public LoraSharpOptions Validate()
    {
        List<string> faults = [];
        if (string.IsNullOrEmpty(Model))
        {
            faults.Add("Model is missing: expected a folder, a .gguf file or a hub name");
        }

        if (DefaultMaxTokens < 1)
        {
            faults.Add($"DefaultMaxTokens {DefaultMaxTokens}: expected 1 or more");
        }

        faults.AddRange(Adapters.Where(a => string.IsNullOrEmpty(a.Key) || string.IsNullOrEmpty(a.Value)).Select(a => $"adapter '{a.Key}': expected a name and a path, found '{a.Value}'"));
        if (Adapters.ContainsKey(ModelName ?? Model))
        {
            faults.Add($"adapter '{ModelName ?? Model}': this is the base model's name");
        }

        return faults.Count == 0 ? this : throw new LoraSharpException($"LoraSharp's options out of range:\n  {string.Join("\n  ", faults)}");
    }
}
