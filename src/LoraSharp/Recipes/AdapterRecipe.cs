using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>The low-rank update (Hu et al. 2021, section 4): W' = W + (alpha/r)·B·A.</summary>
public sealed record AdapterRecipe
{
    /// <summary>r.</summary>
    [Description("Rank r of the update.")]
    [Range(1, 65536)]
    public int Rank { get; init; } = 16;

    /// <summary>alpha.</summary>
    [Description("Numerator of the scaling alpha/r (alpha/√r with rslora).")]
    [Range(1e-9, 1e9)]
    public double Alpha { get; init; } = 32;

    /// <summary>Dropout.</summary>
    [Description("Probability of dropping an input of A while training.")]
    [Range(0.0, 0.999)]
    public double Dropout { get; init; }

    /// <summary>Rank dropout.</summary>
    [Description("Probability of dropping a whole rank while training (LyCORIS, Yeh et al. 2024).")]
    [Range(0.0, 0.999)]
    public double RankDropout { get; init; }

    /// <summary>Targets.</summary>
    [Description("all-linear, a list of name suffixes, or a regular expression that matches whole module names.")]
    public NameSet Targets { get; init; } = new("all-linear");

    /// <summary>Stacked experts.</summary>
    [Description("Tensors that get factors of their own, by name or its ending: stacked experts, e.g. [experts.gate_up_proj, experts.down_proj] (PEFT's target_parameters).")]
    public IReadOnlyList<string> TargetParameters { get; init; } = [];

    /// <summary>Exclusions.</summary>
    [Description("Modules that are left out of the targets: names or a regular expression.")]
    public NameSet? Exclude { get; init; }

    /// <summary>rsLoRA.</summary>
    [Description("Scale by alpha/√r (Kalajdzievski 2023).")]
    public bool Rslora { get; init; }

    /// <summary>DoRA.</summary>
    [Description("Train magnitude and direction apart (Liu et al. 2024).")]
    public bool Dora { get; init; }

    /// <summary>Initialisation.</summary>
    [Description("How A and B start: default, gaussian, pissa, pissa_niter_N, olora, orthogonal, eva (directions of what the layers see of the training data, Paischer et al. 2024). For LoftQ and QPiSSA see lora quantize --init.")]
    public string Init { get; init; } = "default";

    /// <summary>EVA's redistribution.</summary>
    [Description("With init eva: a layer may get up to rank · eva_rho, taken from layers that need fewer directions; 1 keeps every rank.")]
    [Range(1.0, 1000.0)]
    public double EvaRho { get; init; } = 2;

    /// <summary>EVA's end.</summary>
    [Description("With init eva: cosine with the batch before from which on a direction counts as found.")]
    [Range(0.0, 1.0)]
    public double EvaTau { get; init; } = 0.99;

    /// <summary>Start from an adapter.</summary>
    [Description("Go on from this adapter folder: its configuration replaces the other keys of this section.")]
    public string? InitFrom { get; init; }

    /// <summary>Another base.</summary>
    [Description("Go on from init_from although it was made on another base.")]
    public bool AnyBase { get; init; }

    /// <summary>Warnings as errors.</summary>
    [Description("Treat warnings about the adapter as errors: targets without a match, factors that are zero, tied weights, another base.")]
    public bool Strict { get; init; }

    /// <summary>Ranks by module.</summary>
    [Description("Rank for modules whose name matches a pattern, e.g. { down_proj: 4 }.")]
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Alphas by module.</summary>
    [Description("Alpha for modules whose name matches a pattern.")]
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Layers.</summary>
    [Description("Only these decoder layers, by index.")]
    public IReadOnlyList<int>? LayersToTransform { get; init; }

    /// <summary>Layers' name.</summary>
    [Description("Name of the list that layers_to_transform counts in, e.g. layers.")]
    public string? LayersPattern { get; init; }

    /// <summary>Biases.</summary>
    [Description("Which biases train: none, all, lora_only.")]
    [AllowedValues("none", "all", "lora_only")]
    public string Bias { get; init; } = "none";

    /// <summary>B's bias.</summary>
    [Description("Give B a bias of its own.")]
    public bool LoraBias { get; init; }

    /// <summary>Whole modules.</summary>
    [Description("Modules that train and are saved whole, e.g. [lm_head, embed_tokens].")]
    public IReadOnlyList<string> ModulesToSave { get; init; } = [];

    /// <summary>Tokens.</summary>
    [Description("Token ids whose embedding rows train.")]
    public IReadOnlyList<int> TrainableTokens { get; init; } = [];
}
