using System.Text.Json.Nodes;
using LoraSharp.Layers;

namespace LoraSharp.Models;

/// <summary>
/// Everything that decides a decoder's arithmetic, resolved from <c>config.json</c> by the row of its family in
/// <see cref="DecoderFamilies"/>. Nothing below looks at the model type again.
/// </summary>
public sealed record DecoderConfig
{
    /// <summary><c>model_type</c> of the family, e.g. <c>llama</c>.</summary>
    public required string ModelType { get; init; }

    /// <summary>v, the rows of the embedding.</summary>
    public required int VocabularySize { get; init; }

    /// <summary>d, the size of the residual stream.</summary>
    public required int HiddenSize { get; init; }

    /// <summary>The longest sequence that the model was made for, in tokens.</summary>
    public required int MaxPositions { get; init; }

    /// <summary>Kind and epsilon of the block norms and the final norm.</summary>
    public required NormSpec Norm { get; init; }

    /// <summary>Heads, sizes, scale, layout of the projections.</summary>
    public required AttentionConfig Attention { get; init; }

    /// <summary>The dense feed-forward part.</summary>
    public required FeedForwardConfig FeedForward { get; init; }

    /// <summary>Mixture of experts of the layers marked <see cref="DecoderLayerConfig.Sparse"/>; null where there is none.</summary>
    public ExpertsConfig? Experts { get; init; }

    /// <summary>What differs from layer to layer, one entry a layer.</summary>
    public required IReadOnlyList<DecoderLayerConfig> Layers { get; init; }

    /// <summary>Names of the tensors.</summary>
    public required DecoderNames Names { get; init; }

    /// <summary>Attention and feed-forward read the same input and are added together.</summary>
    public bool Parallel { get; init; }

    /// <summary>Whether the block's norms take what the residual stream is after an addition, not what is added or read (opt-350m).</summary>
    public bool NormsAfterResidual { get; init; }

    /// <summary>Width of the token table and of what <c>lm_head</c> reads, where it is not d: two projections lie between (opt-350m); null for d.</summary>
    public int? EmbeddingSize { get; init; }

    /// <summary>Factor on the embedded tokens (√d in Gemma).</summary>
    public double EmbeddingScale { get; init; } = 1;

    /// <summary>Factor on what a block adds to the residual stream (Granite).</summary>
    public double ResidualScale { get; init; } = 1;

    /// <summary>Factor on the logits (Cohere; 1 / logits_scaling in Granite).</summary>
    public double LogitScale { get; init; } = 1;

    /// <summary>cap·tanh(logit / cap) (Gemma 2); null for none.</summary>
    public double? LogitSoftCap { get; init; }

    /// <summary>Learned absolute positions (GPT-2, OPT); null where positions are rotary.</summary>
    public LearnedPositions? Positions { get; init; }

    /// <summary>Whether <c>lm_head</c> uses the embedding's weight; null when <c>config.json</c> leaves it to the checkpoint.</summary>
    public bool? TieEmbeddings { get; init; }

    /// <summary>Whether <c>lm_head</c> has a bias.</summary>
    public bool HeadBias { get; init; }

    /// <summary>Reads <c>config.json</c>.</summary>
    /// <param name="json">The configuration, as transformers 4 or 5 writes it.</param>
    /// <param name="location">The folder or file, for messages.</param>
    /// <param name="modelType">Treat it as this family; null: what <c>model_type</c> says.</param>
    /// <exception cref="Formats.LoraSharpException">Unknown family, missing keys, or values that are not implemented; all are listed.</exception>
    public static DecoderConfig Read(JsonObject json, string location, string? modelType = null) => DecoderFamilies.Read(json, location, modelType);
}

/// <summary>One decoder layer's own switches.</summary>
/// <param name="Window">A token sees itself and the <c>Window - 1</c> before it; null for all.</param>
/// <param name="Rope">Rotary positions; null for none (NoPE layers, learned positions).</param>
/// <param name="Sparse">Whether the feed-forward part is the mixture of experts.</param>
public sealed record DecoderLayerConfig(int? Window, RopeSpec? Rope, bool Sparse);

/// <summary>A learned table of positions.</summary>
/// <param name="Count">Rows that positions may use.</param>
/// <param name="Offset">Rows before the first position (2 in OPT).</param>
/// <param name="CountsRealTokens">Whether padding on the left does not count.</param>
public sealed record LearnedPositions(int Count, int Offset, bool CountsRealTokens = false);

/// <summary>How q, k and v come out of the checkpoint's projections.</summary>
public enum QkvLayout
{
    /// <summary>Three linear layers.</summary>
    Separate,

    /// <summary>One layer, rows [q | k | v] (Phi-3, GPT-2, Falcon with one key/value head).</summary>
    Concatenated,

    /// <summary>One layer, rows grouped by key/value head: its query heads, then k, then v (Falcon; GPT-NeoX with one query head a group).</summary>
    Grouped,
}

/// <summary>Whether and over what q and k are normalised before positions are applied.</summary>
public enum QueryKeyNorm
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>Over each head's e values, one weight for all heads (Qwen3, Gemma 3).</summary>
    PerHead,

    /// <summary>Over all heads' values together (OLMo 2).</summary>
    Full,

    /// <summary>A layer norm without bias over each head's e values, each head with a weight of its own (StableLM 2 12B).</summary>
    EachHead,
}

/// <summary>Attention of all layers.</summary>
public sealed record AttentionConfig
{
    /// <summary>h, query heads.</summary>
    public required int Heads { get; init; }

    /// <summary>hk, key and value heads; divides h.</summary>
    public required int KeyValueHeads { get; init; }

    /// <summary>e, values a head.</summary>
    public required int HeadSize { get; init; }

    /// <summary>Factor on q·kᵀ.</summary>
    public required double Scale { get; init; }

    /// <summary>Scale divided by the layer's number from 1 (GPT-2's <c>scale_attn_by_inverse_layer_idx</c>).</summary>
    public bool ScaleByLayer { get; init; }

    /// <summary>See <see cref="AttentionSpec.SoftCap"/>.</summary>
    public double? SoftCap { get; init; }

    /// <summary>Whether each layer has <c>sinks</c> (gpt-oss).</summary>
    public bool Sinks { get; init; }

    /// <summary>Norm of q and k.</summary>
    public QueryKeyNorm QueryKeyNorm { get; init; }

    /// <summary>Names of these norms below attention.</summary>
    public (string Query, string Key) QueryKeyNames { get; init; } = ("q_norm", "k_norm");

    /// <summary>Whether a key's position, times a slope for each head, is added to q·kᵀ before the scale (ALiBi, Press et al. 2021; Falcon-RW).</summary>
    public bool Alibi { get; init; }

    /// <summary>Values a head of k that attention sees: e, and with <see cref="Alibi"/> one more for each query head of a group.</summary>
    public int KeySize => Alibi ? HeadSize + (Heads / KeyValueHeads) : HeadSize;

    /// <summary>How q, k, v are stored.</summary>
    public QkvLayout Layout { get; init; }

    /// <summary>Whether the weights are stored as [k, f] (GPT-2).</summary>
    public bool Conv1D { get; init; }

    /// <summary>Bias of the q, k, v projections.</summary>
    public bool QkvBias { get; init; }

    /// <summary>Bias of the output projection.</summary>
    public bool OutputBias { get; init; }

    /// <summary>q, k, v are clamped to ± this (OLMo); null for not.</summary>
    public double? Clip { get; init; }

    /// <summary>Multi-head latent attention (DeepSeek-V2/V3); null for the usual kind.</summary>
    public LatentConfig? Latent { get; init; }
}

/// <summary>Sizes of multi-head latent attention (DeepSeek-V2, section 2.1).</summary>
/// <param name="QueryRank">Rank of the query's compression; null for a full projection.</param>
/// <param name="KeyValueRank">Rank of the shared compression of keys and values.</param>
/// <param name="RopeSize">Values a head that carry positions.</param>
/// <param name="NopeSize">Values a head that don't.</param>
/// <param name="ValueSize">Values a head of v.</param>
public sealed record LatentConfig(int? QueryRank, int KeyValueRank, int RopeSize, int NopeSize, int ValueSize);

/// <summary>The dense feed-forward part: gated where <see cref="DecoderNames.Gate"/> or <see cref="DecoderNames.GateUp"/> names a layer.</summary>
/// <param name="Size">Its inner width.</param>
/// <param name="Activation">Of the gate, or between the two layers.</param>
/// <param name="Bias">Whether the linear layers have biases.</param>
public sealed record FeedForwardConfig(int Size, Activation Activation, bool Bias);
