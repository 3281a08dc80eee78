namespace LoraSharp.Models;

/// <summary>
/// Names of a family's tensors, and with them the shape of its block: a norm without a name does not exist.
/// The default is Llama's.
/// </summary>
public sealed record DecoderNames
{
    /// <summary>What transformers puts before every name of the base model; checkpoints saved without the head lack it.</summary>
    public string Prefix { get; init; } = "model.";

    /// <summary>The token table, with the prefix.</summary>
    public string Embedding { get; init; } = "model.embed_tokens";

    /// <summary>The position table, with the prefix; null for none.</summary>
    public string? Positions { get; init; }

    /// <summary>From the token table's width to d, where it has another; with the prefix.</summary>
    public string ProjectIn { get; init; } = "model.decoder.project_in";

    /// <summary>From d to the token table's width, where it has another; with the prefix.</summary>
    public string ProjectOut { get; init; } = "model.decoder.project_out";

    /// <summary>Path of the layers: <c>model.layers</c>.</summary>
    public string Layers { get; init; } = "model.layers";

    /// <summary>Norm before attention (and, in a parallel block with no other, before the feed-forward part); null for none.</summary>
    public string? InputNorm { get; init; } = "input_layernorm";

    /// <summary>Norm of what attention gives, before it is added; null for none.</summary>
    public string? AttentionOutputNorm { get; init; }

    /// <summary>Norm before the feed-forward part; null for none.</summary>
    public string? FeedForwardNorm { get; init; } = "post_attention_layernorm";

    /// <summary>Norm of what the feed-forward part gives, before it is added; null for none.</summary>
    public string? FeedForwardOutputNorm { get; init; }

    /// <summary>Norm after the last layer, with the prefix; null for none.</summary>
    public string? FinalNorm { get; init; } = "model.norm";

    /// <summary>The output projection.</summary>
    public string Head { get; init; } = "lm_head";

    /// <summary>Attention below the layer.</summary>
    public string Attention { get; init; } = "self_attn";

    /// <summary>q, k and v in one; null where they are separate.</summary>
    public string? Qkv { get; init; }

    /// <summary>The output projection of attention.</summary>
    public string Output { get; init; } = "o_proj";

    /// <summary>The feed-forward part below the layer; empty when its layers are the layer's own (OPT).</summary>
    public string FeedForward { get; init; } = "mlp";

    /// <summary>Gate; null where there is none or it is fused with up.</summary>
    public string? Gate { get; init; } = "gate_proj";

    /// <summary>Gate and up in one layer, rows [gate | up]; null where they are separate.</summary>
    public string? GateUp { get; init; }

    /// <summary>The first layer.</summary>
    public string Up { get; init; } = "up_proj";

    /// <summary>The last layer.</summary>
    public string Down { get; init; } = "down_proj";

    /// <summary>Path of one layer.</summary>
    public string Layer(int index) => $"{Layers}.{index}";
}
