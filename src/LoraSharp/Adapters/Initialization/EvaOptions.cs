using System.Text.Json.Nodes;
using LoraSharp.Formats;

namespace LoraSharp.Adapters.Initialization;

/// <summary>Settings of EVA (Paischer et al. 2024, "One Initialization to Rule them All"); PEFT's <c>EvaConfig</c>.</summary>
public sealed record EvaOptions
{
    /// <summary>A layer may get up to rank · rho, taken from layers whose inputs need fewer directions; 1 gives every layer its own rank. Default 2.</summary>
    public double Rho { get; init; } = 2;

    /// <summary>Cosine between a direction and itself one batch ago from which on it counts as found, 0 to 1. Default 0.99.</summary>
    public double Tau { get; init; } = 0.99;

    /// <summary>Look at the inputs of supervised tokens only. Default true.</summary>
    public bool SupervisedOnly { get; init; } = true;

    /// <summary>Scale a layer's alpha with its rank, so that alpha / r stays. Default true.</summary>
    public bool AdjustAlpha { get; init; } = true;

    /// <summary>Batches after which directions are taken as they are. Default 200; PEFT has no such bound.</summary>
    public int MaxBatches { get; init; } = 200;

    /// <summary>Checks everything and names every fault.</summary>
    /// <exception cref="LoraSharpException">A value is out of range.</exception>
    public void Validate()
    {
        var faults = new List<string>();
        if (!(Rho >= 1) || !double.IsFinite(Rho))
        {
            faults.Add($"eva_rho: expected at least 1, found {Rho}");
        }

        if (Tau is < 0 or > 1 or double.NaN)
        {
            faults.Add($"eva_tau: expected 0 to 1, found {Tau}");
        }

        if (MaxBatches < 1)
        {
            faults.Add($"eva max_batches: expected at least 1, found {MaxBatches}");
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException($"EVA's settings can't be used:\n  {string.Join("\n  ", faults)}");
        }
    }

    /// <summary>As <c>adapter_config.json</c> holds it.</summary>
    internal JsonObject ToJson() => new()
    {
        ["rho"] = Rho,
        ["tau"] = Tau,
        ["use_label_mask"] = SupervisedOnly,
        ["label_mask_value"] = -100,
        ["whiten"] = false,
        ["adjust_scaling_factors"] = AdjustAlpha,
    };
}
