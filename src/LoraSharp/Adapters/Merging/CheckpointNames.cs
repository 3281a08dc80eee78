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

    // Where checkpoints keep what transformers 5 stacks as mlp.experts.gate_up_proj and mlp.experts.down_proj.
    private static readonly (string Block, string Gate, string Up, string Down)[] ExpertForms = [("mlp", "gate_proj", "up_proj", "down_proj"), ("block_sparse_moe", "w1", "w3", "w2")];

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

    /// <summary>The tensors that hold a stack of experts: itself, or each expert's, with the row of the expert's matrix [f, k] at which they begin; empty where there are none.</summary>
    /// <param name="parameter">Name of the stack, e.g. <c>model.layers.0.mlp.experts.gate_up_proj</c>.</param>
    /// <param name="count">E.</param>
    public IReadOnlyList<(string Tensor, int? Expert, long FirstRow)> FindStack(string parameter, int count)
    {
        if (Find(parameter) is { } whole)
        {
            return [(whole, null, 0)];
        }

        const string Place = ".mlp.experts.";
        int place = parameter.IndexOf(Place, StringComparison.Ordinal);
        if (place < 0)
        {
            return [];
        }

        (string layer, string stack) = (parameter[..place], parameter[(place + Place.Length)..]);
        foreach ((string block, string gate, string up, string down) in ExpertForms)
        {
            string? Tensor(int expert, string name) => Find($"{layer}.{block}.experts.{expert}.{name}.weight");
            if (Tensor(0, gate) is null)
            {
                continue;
            }

            string[] names = stack == "gate_up_proj" ? [gate, up] : stack == "down_proj" ? [down] : [];
            return [.. from expert in Enumerable.Range(0, count)
                       from name in names
                       let tensor = Tensor(expert, name)
                       where tensor is not null
                       select (tensor, (int?)expert, name == up ? _tensors[tensor].Shape[0] : 0L)];
        }

        return [];
    }

    /// <summary>Whether a layer's weight is stored as [k, f].</summary>
    public bool IsTransposed(string module) => _conv1D && (module.StartsWith("h.", StringComparison.Ordinal) || module.Contains(".h.", StringComparison.Ordinal));

    /// <summary>Paths under which an adapter would name the embedding.</summary>
    public bool IsInputEmbedding(string module) => InputEmbedding is not null && Find(module + ".weight") == InputEmbedding;
}
