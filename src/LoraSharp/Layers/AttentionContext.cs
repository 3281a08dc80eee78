using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>
/// How the tokens of one forward pass see each other: the contract between a model and whoever runs it (a trainer
/// with padded or packed rows, a generator with a dense cache, a server with a paged cache). A model computes q, k, v
/// with positions applied and asks this for the rest.
/// </summary>
public abstract class AttentionContext
{
    /// <summary>Attention of one layer.</summary>
    /// <param name="layer">Index of the decoder layer, 0-based: caches are kept by it.</param>
    /// <param name="query">[b, h, s, e].</param>
    /// <param name="key">[b, hk, s, e], for the new tokens only; h is a multiple of hk.</param>
    /// <param name="value">[b, hk, s, ev].</param>
    /// <param name="spec">Scale, window, soft-cap, sinks.</param>
    /// <returns>[b, h, s, ev].</returns>
    public abstract Tensor Attend(int layer, Tensor query, Tensor key, Tensor value, AttentionSpec spec);
}

/// <summary>What is particular to one layer's attention.</summary>
public sealed record AttentionSpec
{
    /// <summary>Factor on q·kᵀ; 1/√e in most models.</summary>
    public required double Scale { get; init; }

    /// <summary>A token sees itself and the <c>Window - 1</c> before it; null for all.</summary>
    public int? Window { get; init; }

    /// <summary>softcap·tanh(score / softcap) before the mask (Gemma 2); null for none.</summary>
    public double? SoftCap { get; init; }

    /// <summary>A learned logit a head that takes part in the softmax and is dropped (gpt-oss) [h]; null for none.</summary>
    public Tensor? Sinks { get; init; }
}
