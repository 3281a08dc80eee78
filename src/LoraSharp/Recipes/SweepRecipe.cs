using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>What <c>lora sweep</c> varies, and how its trials are trained and measured. An empty list stands for the recipe's own value.</summary>
public sealed record SweepRecipe
{
    /// <summary>Ranks.</summary>
    [Description("Ranks to try.")]
    public IReadOnlyList<int> Ranks { get; init; } = [];

    /// <summary>Alphas.</summary>
    [Description("Alphas to try. When empty and ranks vary, the ratio of adapter.alpha to adapter.rank is kept; a single one for all ranks is what Hu et al. 2021 do.")]
    public IReadOnlyList<double> Alphas { get; init; } = [];

    /// <summary>Targets.</summary>
    [Description("Targets to try, each as adapter.targets: [q_proj, [q_proj, v_proj], all-linear].")]
    public IReadOnlyList<NameSet> Targets { get; init; } = [];

    /// <summary>Rates.</summary>
    [Description("Peak learning rates to try.")]
    public IReadOnlyList<double> LearningRates { get; init; } = [];

    /// <summary>Variants.</summary>
    [Description("Variants to try: lora, rslora, dora, loraplus (B learns 16 times as fast as A), pissa, olora.")]
    public IReadOnlyList<string> Variants { get; init; } = [];

    /// <summary>Ceiling.</summary>
    [Description("Also fine-tune every weight with each of these peak learning rates, at equal steps: the ceiling that adapters are measured against.")]
    public IReadOnlyList<double> FullLearningRates { get; init; } = [];

    /// <summary>Side by side or not.</summary>
    [Description("together: side by side on one base, rows of one batch belonging to different adapters. single: one after the other. auto: together, but single where the fused GPU step fits.")]
    [AllowedValues("auto", "together", "single")]
    public string Mode { get; init; } = "auto";

    /// <summary>Group size.</summary>
    [Description("Most trials in one pass; 0 for as many as fill it (512 tokens on a CPU): more need more memory and gain nothing.")]
    [Range(0, 4096)]
    public int AtOnce { get; init; }

    /// <summary>Halving.</summary>
    [Description("Successive halving: take the worse half of the trials out every this many steps; 0 for never.")]
    [Range(0, int.MaxValue)]
    public int HalveEvery { get; init; }

    /// <summary>Test set.</summary>
    [Description("Rows to measure every trained trial on: loss, and the generated answers' exact match, BLEU, ROUGE-L.")]
    public string? Test { get; init; }

    /// <summary>Test rows.</summary>
    [Description("Use at most this many of the test rows; 0 for all.")]
    [Range(0, int.MaxValue)]
    public int TestRows { get; init; }

    /// <summary>Test answers.</summary>
    [Description("Most tokens of a generated test answer; 0 measures the loss alone.")]
    [Range(0, int.MaxValue)]
    public int TestTokens { get; init; } = 64;

    /// <summary>Test batch.</summary>
    [Description("Test rows that are measured side by side.")]
    [Range(1, 65536)]
    public int TestBatchSize { get; init; } = 32;
}
