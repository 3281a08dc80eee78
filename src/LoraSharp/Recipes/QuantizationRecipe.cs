using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>How the base is quantised; read when the method is qlora.</summary>
public sealed record QuantizationRecipe
{
    /// <summary>Type.</summary>
    [Description("nf4 or fp4.")]
    [AllowedValues("nf4", "fp4")]
    public string Type { get; init; } = "nf4";

    /// <summary>Double quantisation.</summary>
    [Description("Quantise the scales too (Dettmers et al. 2023, section 3).")]
    public bool Double { get; init; } = true;

    /// <summary>Block.</summary>
    [Description("Weights that share a scale.")]
    [AllowedValues(32, 64, 128, 256, 512, 1024, 2048, 4096)]
    public int BlockSize { get; init; } = 64;

    /// <summary>Exceptions.</summary>
    [Description("Modules that keep their type, besides the output head.")]
    public IReadOnlyList<string> SkipModules { get; init; } = [];
}
