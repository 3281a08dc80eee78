namespace LoraSharp.Formats.Peft;

/// <summary>What a tensor of an adapter file is to its module.</summary>
public enum AdapterPart
{
    /// <summary>A [r, k] of a linear layer.</summary>
    LoraA,

    /// <summary>B [f, r] of a linear layer.</summary>
    LoraB,

    /// <summary>A of every expert of a stack, one below the other [E·r, k] (<c>target_parameters</c>).</summary>
    StackA,

    /// <summary>B of every expert of a stack [f, r·E]: column i·E + e is the i-th of expert e.</summary>
    StackB,

    /// <summary>Bias of B [f] (<c>lora_bias</c>).</summary>
    LoraBBias,

    /// <summary>A [r, v] of an embedding.</summary>
    EmbeddingA,

    /// <summary>B [d, r] of an embedding.</summary>
    EmbeddingB,

    /// <summary>DoRA's magnitude [f] (of an embedding [d]).</summary>
    Magnitude,

    /// <summary>New rows [m, d] of an embedding (<c>trainable_token_indices</c>).</summary>
    TokenRows,

    /// <summary>Weight of the layer under the factors, saved along (embeddings).</summary>
    BaseWeight,

    /// <summary>Trained bias of the layer under the factors (<c>bias</c>).</summary>
    BaseBias,

    /// <summary>A tensor of a module saved in full (<c>modules_to_save</c>, <c>bias: all</c>).</summary>
    Saved,
}

/// <summary>A tensor of an adapter file and its place in the model.</summary>
/// <param name="Key">Its name in the file, e.g. <c>base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight</c>.</param>
/// <param name="Module">Path of the module, e.g. <c>model.layers.0.self_attn.q_proj</c>.</param>
/// <param name="Part">What it is to the module.</param>
/// <param name="Info">Type and shape.</param>
public sealed record AdapterTensor(string Key, string Module, AdapterPart Part, TensorInfo Info)
{
    /// <summary>What PEFT puts before every path of the base model.</summary>
    public const string Prefix = "base_model.model.";

    private static readonly (string Suffix, AdapterPart Part)[] Suffixes =
    [
        (".lora_A.weight", AdapterPart.LoraA), (".lora_B.weight", AdapterPart.LoraB), (".lora_B.bias", AdapterPart.LoraBBias),
        (".lora_embedding_A", AdapterPart.EmbeddingA), (".lora_embedding_B", AdapterPart.EmbeddingB),
        (".lora_A.weight", AdapterPart.StackA), (".lora_B.weight", AdapterPart.StackB),
        (".lora_magnitude_vector", AdapterPart.Magnitude), (".lora_magnitude_vector.weight", AdapterPart.Magnitude),
        (".token_adapter.trainable_tokens_delta", AdapterPart.TokenRows),
        (".base_layer.weight", AdapterPart.BaseWeight), (".base_layer.bias", AdapterPart.BaseBias),
    ];

    /// <summary>For <see cref="AdapterPart.Saved"/> the tensor's full name in the base model, e.g. <c>lm_head.weight</c>.</summary>
    public string BaseName => Key[Prefix.Length..];

    /// <summary>Interprets a key; null when it is no key of an adapter.</summary>
    public static AdapterTensor? Parse(string key, TensorInfo info)
    {
        ArgumentNullException.ThrowIfNull(key);
        if (!key.StartsWith(Prefix, StringComparison.Ordinal))
        {
            return null;
        }

        string path = key[Prefix.Length..];
        foreach ((string suffix, AdapterPart part) in Suffixes)
        {
            if (path.EndsWith(suffix, StringComparison.Ordinal))
            {
                return new(key, path[..^suffix.Length], part, info);
            }
        }

        int dot = path.LastIndexOf('.');
        return dot <= 0 || path.Contains(".lora_", StringComparison.Ordinal) ? null : new(key, path[..dot], AdapterPart.Saved, info);
    }

    /// <summary>The key that PEFT gives a part of a module.</summary>
    public static string KeyOf(string module, AdapterPart part) => part == AdapterPart.Saved
        ? throw new ArgumentException("A saved tensor's key is the prefix and its own name.", nameof(part))
        : Prefix + module + Suffixes.First(s => s.Part == part).Suffix;
}
