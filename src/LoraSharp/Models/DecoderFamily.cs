using LoraSharp.Layers;

namespace LoraSharp.Models;

/// <summary>A switch that a key of <c>config.json</c> may set.</summary>
/// <param name="Default">Without the key.</param>
/// <param name="Key">The key; null when the family always has the default.</param>
internal readonly record struct Switch(bool Default, string? Key = null);

/// <summary>One row of <see cref="DecoderFamilies"/>: how a model type differs from Llama.</summary>
/// <param name="Name">Its <c>model_type</c>.</param>
internal sealed record DecoderFamily(string Name)
{
    /// <summary>Names of tensors, and with them which norms there are.</summary>
    public DecoderNames Names { get; init; } = new();

    /// <summary>The family's own names of common keys.</summary>
    public IReadOnlyDictionary<string, string> Aliases { get; init; } = new Dictionary<string, string>();

    /// <summary>
    /// What a key is that is not there at all, where transformers' class of the family has a default and <c>null</c> means
    /// something else (no window, no cap).
    /// </summary>
    public IReadOnlyDictionary<string, double> Defaults { get; init; } = new Dictionary<string, double>();

    /// <summary>Kind of all norms.</summary>
    public NormKind Norm { get; init; } = NormKind.Rms;

    /// <summary>Key of the norms' epsilon, and its default; null when it is fixed.</summary>
    public string? EpsilonKey { get; init; } = "rms_norm_eps";

    /// <summary>Default of the epsilon.</summary>
    public double Epsilon { get; init; } = 1e-6;

    /// <summary>Key of the activation.</summary>
    public string ActivationKey { get; init; } = "hidden_act";

    /// <summary>Default of the activation.</summary>
    public string Activation { get; init; } = "silu";

    /// <summary>Inner width of the feed-forward part from d, where the key may be missing; null where it must be there.</summary>
    public Func<int, int>? DefaultFeedForwardSize { get; init; }

    /// <summary>Bias of q, k, v.</summary>
    public Switch QkvBias { get; init; }

    /// <summary>Bias of attention's output projection.</summary>
    public Switch OutputBias { get; init; }

    /// <summary>Bias of all four projections of attention, where one switch governs them.</summary>
    public Switch AttentionBias
    {
        init => (QkvBias, OutputBias) = (value, value);
    }

    /// <summary>Bias of the feed-forward layers.</summary>
    public Switch FeedForwardBias { get; init; }

    /// <summary>What <c>tie_word_embeddings</c> is without the key; null: what the checkpoint has.</summary>
    public bool? Tied { get; init; }

    /// <summary>Norm of q and k.</summary>
    public QueryKeyNorm QueryKeyNorm { get; init; }

    /// <summary>How q, k, v are stored.</summary>
    public QkvLayout Layout { get; init; }

    /// <summary>Whether layers use rotary positions at all.</summary>
    public bool Rotary { get; init; } = true;

    /// <summary>Default of <c>rope_theta</c>.</summary>
    public double Theta { get; init; } = 10000;

    /// <summary>θ of layers with a window, where it is another.</summary>
    public double? LocalTheta { get; init; }

    /// <summary>Whether <c>rope_scaling</c> leaves layers with a window alone.</summary>
    public bool StretchesFullAttentionOnly { get; init; }

    /// <summary>Default of <c>partial_rotary_factor</c>; null where transformers' class never reads the key and rotates whole heads.</summary>
    public double? PartialRotary { get; init; }

    /// <summary>Whether rotated pairs are neighbours.</summary>
    public bool InterleavedRope { get; init; }

    /// <summary>Type of each layer where <c>layer_types</c> is missing; null when all see everything.</summary>
    public Func<ConfigReader, int, string>? LayerType { get; init; }

    /// <summary>Whether <c>layer_types</c> is read.</summary>
    public bool ReadsLayerTypes { get; init; } = true;

    /// <summary>Further switches from the configuration.</summary>
    public Func<ConfigReader, DecoderConfig, DecoderConfig>? Refine { get; init; }
}
