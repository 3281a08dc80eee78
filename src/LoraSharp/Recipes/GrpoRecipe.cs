using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>Learning from rewards that can be checked (GRPO, Shao et al. 2024): completions are sampled and judged instead of shown.</summary>
public sealed record GrpoRecipe
{
    /// <summary>Reward.</summary>
    [Description("none, exact_match (1 when the sampled completion is the row's own, spaces around it aside) or regex (see pattern). Other rewards are given in C#.")]
    [AllowedValues("none", "exact_match", "regex")]
    public string Reward { get; init; } = "none";

    /// <summary>Pattern.</summary>
    [Description("For regex: what a completion must match to earn 1. With a group named answer, the last match's group must be the same in the completion and in the row's own, e.g. \"####\\s*(?<answer>-?\\d+)\".")]
    public string? Pattern { get; init; }

    /// <summary>Group.</summary>
    [Description("Completions sampled of each prompt; their mean reward is the baseline.")]
    [Range(2, 4096)]
    public int GroupSize { get; init; } = 8;

    /// <summary>Length.</summary>
    [Description("Longest sampled completion in tokens.")]
    [Range(1, 1 << 20)]
    public int MaxTokens { get; init; } = 128;

    /// <summary>Temperature.</summary>
    [Description("Temperature of sampling, and of the distribution that is trained.")]
    [Range(1e-3, 100.0)]
    public double Temperature { get; init; } = 1;

    /// <summary>β.</summary>
    [Description("Strength of the pull to the base (the adapter switched off); 0 for none.")]
    [Range(0.0, 1e3)]
    public double Beta { get; init; }

    /// <summary>Scaling.</summary>
    [Description("Divide advantages by the spread of their group's rewards; false as in Dr. GRPO (Liu et al. 2025).")]
    public bool ScaleRewards { get; init; } = true;
}
