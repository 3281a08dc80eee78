using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>Learning from preferences.</summary>
public sealed record PreferenceRecipe
{
    /// <summary>Loss.</summary>
    [Description("none, or dpo, ipo, hinge, orpo, simpo, kto for preference rows.")]
    [AllowedValues("none", "dpo", "ipo", "hinge", "orpo", "simpo", "kto")]
    public string Loss { get; init; } = "none";

    /// <summary>β.</summary>
    [Description("Strength of the pull to the reference (lambda of ORPO).")]
    [Range(1e-6, 1e3)]
    public double Beta { get; init; } = 0.1;

    /// <summary>Smoothing.</summary>
    [Description("Share of labels taken to be wrong (conservative DPO).")]
    [Range(0.0, 0.5)]
    public double LabelSmoothing { get; init; }

    /// <summary>Margin.</summary>
    [Description("SimPO's target margin over beta (gamma/beta).")]
    [Range(0.0, 1e3)]
    public double Gamma { get; init; } = 0.5;
}
