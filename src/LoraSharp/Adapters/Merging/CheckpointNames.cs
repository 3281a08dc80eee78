using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Adapters.Merging;

/// <summary>Where the tensors of an adapter's modules are in a checkpoint, and how they are stored there.</summary>
internal sealed class CheckpointNames
{
    // Checkpoints of a base class lack the attribute that the causal model puts in front, or the other way round.
    private static readonly string[] Prefixes = ["model.", "transformer.", "gpt_neox."];
    private static readonly string[] EmbeddingNames = ["embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings"];

    private readonly IReadOnlyDictionary<string, TensorInfo> _tensors;
    private readonly bool _conv1D;

    public CheckpointNames(ModelSource model)
    {
        _tensors = model.Tensors.Tensors;
        _conv1D = model.Config["model_type"] is JsonValue type && type.TryGetValue(out string? name) && name is "gpt2" or "openai-gpt";
        InputEmbedding = _tensors.Keys.FirstOrDefault(t => EmbeddingNames.Any(e => t == e + ".weight" || t.EndsWith($".{e}.weight", StringComparison.Ordinal)));
    }

    /// <summary>The embedding's tensor, or null where its name is not known.</summary>
    public string? InputEmbedding { get; }

    /// <summary>Whether the head has no tensor of its own and takes the embedding's.</summary>
    public bool HeadIsTied => InputEmbedding is not null && !_tensors.Keys.Any(IsHead);

    /// <summary>Whether a path is the output head's.</summary>
    public static bool IsHead(string name) => name is "lm_head" or "lm_head.weight" or "embed_out" or "embed_out.weight" or "output" or "output.weight";

    /// <summary>The tensor's name in the checkpoint, or null.</summary>
    public string? Find(string name)
    {
        if (_tensors.ContainsKey(name))
        {
            return name;
        }

        foreach (string prefix in Prefixes)
        {
            if (name.StartsWith(prefix, StringComparison.Ordinal) && _tensors.ContainsKey(name[prefix.Length..]))
            {
                return name[prefix.Length..];
            }

            if (_tensors.ContainsKey(prefix + name))
            {
                return prefix + name;
            }
        }

        return null;
    }

    /// <summary>Whether a layer's weight is stored as [k, f].</summary>
    public bool IsTransposed(string module) => _conv1D && (module.StartsWith("h.", StringComparison.Ordinal) || module.Contains(".h.", StringComparison.Ordinal));

    /// <summary>Paths under which an adapter would name the embedding.</summary>
    public bool IsInputEmbedding(string module) => InputEmbedding is not null && Find(module + ".weight") == InputEmbedding;
}
