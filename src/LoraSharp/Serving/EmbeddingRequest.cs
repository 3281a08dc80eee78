using LoraSharp.Inference;

namespace LoraSharp.Serving;

/// <summary>Texts whose vectors are asked for.</summary>
public sealed record EmbeddingRequest
{
    /// <summary>Token ids of each, at least one.</summary>
    public required IReadOnlyList<IReadOnlyList<int>> Inputs { get; init; }

    /// <summary>Name of a registered adapter; null for the base.</summary>
    public string? Adapter { get; init; }

    /// <summary>How the tokens' states become one vector.</summary>
    public EmbeddingPooling Pooling { get; init; } = EmbeddingPooling.Mean;

    /// <summary>Only the first so many numbers, brought to length 1 again; null for all. Sensible for models trained for it (Kusupati et al. 2022).</summary>
    public int? Dimensions { get; init; }
}
