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

    /// <summary>μ.</summary>
    [Description("Optimizer steps on each sample of completions; from the second on the policy's ratio to the one that was sampled from is clipped.")]
    [Range(1, 1024)]
    public int Iterations { get; init; } = 1;

    /// <summary>ε.</summary>
    [Description("How far the ratio counts below 1, and above it where epsilon_high is 0.")]
    [Range(1e-6, 0.999999)]
    public double Epsilon { get; init; } = 0.2;

    /// <summary>Upper ε.</summary>
    [Description("How far the ratio counts above 1 (larger than epsilon as in DAPO, Yu et al. 2025); 0 for as far as below.")]
    [Range(0.0, 1e3)]
    public double EpsilonHigh { get; init; }
}
