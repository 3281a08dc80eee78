namespace LoraSharp.Layers;

/// <summary>How frequencies are stretched beyond the length a model was trained at.</summary>
public enum RopeScaling
{
    /// <summary>θ^(-2i/e), Su et al. 2021.</summary>
    Default,

    /// <summary>All frequencies divided by the factor.</summary>
    Linear,

    /// <summary>θ grows with the length of the sequence ("dynamic NTK").</summary>
    Dynamic,

    /// <summary>Llama 3.1's three bands.</summary>
    Llama3,

    /// <summary>YaRN, Peng et al. 2023.</summary>
    Yarn,

    /// <summary>LongRoPE, Ding et al. 2024: one factor a frequency, two sets of them by length.</summary>
    LongRope,
}

/// <summary>Rotary positions, resolved from <c>rope_parameters</c> or <c>rope_theta</c> and <c>rope_scaling</c>.</summary>
public sealed record RopeSpec
{
    /// <summary>Which frequencies.</summary>
    public RopeScaling Scaling { get; init; } = RopeScaling.Default;

    /// <summary>The base θ.</summary>
    public double Theta { get; init; } = 10000;

    /// <summary>The e of the exponents 2i/e: a head's size times the rotated part of it, rounded down.</summary>
    public required int Dimensions { get; init; }

    /// <summary>How many of a head's values are rotated: <see cref="Dimensions"/>, or one more where that is odd.</summary>
    public int Rotated => (Dimensions + 1) / 2 * 2;

    /// <summary>Pairs are neighbours (2i, 2i+1) rather than (i, i + e/2).</summary>
    public bool Interleaved { get; init; }

    /// <summary>Stretch.</summary>
    public double Factor { get; init; } = 1;

    /// <summary>The length the model was trained at before it was stretched.</summary>
    public int OriginalMaxPositions { get; init; }

    /// <summary>Factor on cos and sin.</summary>
    public double AttentionFactor { get; init; } = 1;

    /// <summary>Llama 3: below this many turns within the original length a frequency is divided by the factor.</summary>
    public double LowFrequencyFactor { get; init; } = 1;

    /// <summary>Llama 3: above this many turns a frequency stays.</summary>
    public double HighFrequencyFactor { get; init; } = 4;

    /// <summary>YaRN: turns above which a frequency stays.</summary>
    public double BetaFast { get; init; } = 32;

    /// <summary>YaRN: turns below which a frequency is divided by the factor.</summary>
    public double BetaSlow { get; init; } = 1;

    /// <summary>YaRN: whether the band's ends are rounded outwards to whole frequencies.</summary>
    public bool Truncate { get; init; } = true;

    /// <summary>LongRoPE: factors up to the original length.</summary>
    public IReadOnlyList<double> ShortFactors { get; init; } = [];

    /// <summary>LongRoPE: factors beyond it.</summary>
    public IReadOnlyList<double> LongFactors { get; init; } = [];

    /// <summary>Whether the frequencies depend on how long the sequence is.</summary>
    public bool DependsOnLength => Scaling is RopeScaling.Dynamic or RopeScaling.LongRope;

    /// <summary>Equal for two lengths exactly when they have the same frequencies.</summary>
    public long Regime(long length) => Scaling switch
    {
        RopeScaling.Dynamic => Math.Max(length, OriginalMaxPositions),
        RopeScaling.LongRope => length > OriginalMaxPositions ? 1 : 0,
        _ => 0,
    };
}
