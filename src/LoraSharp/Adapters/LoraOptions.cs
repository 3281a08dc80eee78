using LoraSharp.Formats;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Adapters;

/// <summary>
/// What a new adapter is to be: LoRA (Hu et al. 2021) and its relatives. Names and meanings are PEFT's, so that every
/// setting has its place in <c>adapter_config.json</c>.
/// </summary>
public sealed record LoraOptions
{
    /// <summary>r, the inner dimension of B·A; default 16.</summary>
    public int Rank { get; init; } = 16;

    /// <summary>Numerator of the scaling alpha / r; default 32.</summary>
    public double Alpha { get; init; } = 32;

    /// <summary>Probability with which an input element is dropped before A while training; 0 (the default) costs nothing.</summary>
    public double Dropout { get; init; }

    /// <summary>
    /// Probability with which a whole rank is dropped while training, the rest scaled up (rank dropout of LyCORIS,
    /// Yeh et al. 2024); default 0. Not a field of PEFT, so it is not in the saved configuration.
    /// </summary>
    public double RankDropout { get; init; }

    /// <summary>Modules that get factors; default <c>all-linear</c>.</summary>
    public ModuleSelector? Targets { get; init; } = ModuleSelector.Regex(ModuleSelector.AllLinear);

    /// <summary>
    /// Tensors that get factors of their own, by full name or its ending: stacked experts, e.g. <c>experts.gate_up_proj</c>
    /// (PEFT's <c>target_parameters</c>); null for none.
    /// </summary>
    public IReadOnlyList<string>? TargetParameters { get; init; }

    /// <summary>Modules that don't, whatever <see cref="Targets"/> says.</summary>
    public ModuleSelector? Exclude { get; init; }

    /// <summary>Layers to which suffix targets are limited; null for all.</summary>
    public IReadOnlyList<int>? LayersToTransform { get; init; }

    /// <summary>Names of the list of layers in a path (<c>layers</c>, <c>h</c>); null for any.</summary>
    public IReadOnlyList<string>? LayersPattern { get; init; }

    /// <summary>Ranks by pattern over the end of a module path.</summary>
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Alphas by pattern over the end of a module path.</summary>
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Scaling alpha / √r (rsLoRA, Kalajdzievski 2023).</summary>
    public bool UseRsLora { get; init; }

    /// <summary>A trained magnitude an output row (DoRA, Liu et al. 2024).</summary>
    public bool UseDora { get; init; }

    /// <summary>B gets a bias of its own.</summary>
    public bool LoraBias { get; init; }

    /// <summary>Biases of the base that are trained: <c>none</c> (default), <c>all</c> or <c>lora_only</c>.</summary>
    public string Bias { get; init; } = "none";

    /// <summary>Modules that are trained and saved in full; null for none.</summary>
    public IReadOnlyList<string>? ModulesToSave { get; init; }

    /// <summary>Rows of embeddings to train, by the end of the module's path; null for none.</summary>
    public IReadOnlyDictionary<string, IReadOnlyList<long>>? TrainableTokens { get; init; }

    /// <summary>Recorded in the configuration for bases that store weights as [in, out] (GPT-2's Conv1D); set by itself when a target is one.</summary>
    public bool FanInFanOut { get; init; }

    /// <summary>
    /// <c>true</c> (Kaiming A, zero B; the default), <c>false</c> (both random), <c>gaussian</c>, <c>pissa</c>,
    /// <c>pissa_niter_N</c> (Meng et al. 2024), <c>olora</c> (Büyükakyüz 2024), <c>orthogonal</c>, <c>eva</c> (Paischer et al. 2024, needs data).
    /// </summary>
    public string Init { get; init; } = "true";

    /// <summary>Checks everything and names every fault.</summary>
    /// <exception cref="LoraSharpException">One or more settings can't be used.</exception>
    public void Validate()
    {
        var faults = new List<string>();
        void Require(bool ok, string fault)
        {
            if (!ok)
            {
                faults.Add(fault);
            }
        }

        Require(Rank >= 1, $"rank: expected at least 1, found {Rank}");
        Require(double.IsFinite(Alpha), $"alpha: expected a number, found {Alpha}");
        Require(Dropout is >= 0 and < 1, $"dropout: expected at least 0 and less than 1, found {Dropout}");
        Require(RankDropout is >= 0 and < 1, $"rank_dropout: expected at least 0 and less than 1, found {RankDropout}");
        Require(Bias is "none" or "all" or "lora_only", $"bias: expected none, all or lora_only, found '{Bias}'");
        Require(InitIsKnown, $"init: expected true, false, gaussian, pissa, pissa_niter_N, olora, orthogonal or eva, found '{Init}'");
        Require(Targets is not null || TargetParameters is { Count: > 0 } || ModulesToSave is { Count: > 0 } || TrainableTokens is { Count: > 0 }, "targets: nothing is to be trained; name targets, modules_to_save or trainable tokens");
        Require(Targets?.Pattern is null || Targets.IsAllLinear || LayersToTransform is null, "layers_to_transform: can't be used with a regular expression as targets; put the layers into the expression");
        Require(Targets?.Pattern is null || Targets.IsAllLinear || LayersPattern is null, "layers_pattern: can't be used with a regular expression as targets; put it into the expression");
        Require(LayersPattern is not { Count: > 0 } || LayersToTransform is not null, "layers_pattern: needs layers_to_transform");
        Require(!LoraBias || Init is "true" or "false", $"lora_bias: needs init true or false, found '{Init}'");
        Require(!LoraBias || !UseDora, "lora_bias: can't be combined with dora");
        bool experts = TargetParameters is { Count: > 0 };
        Require(!experts || (Dropout == 0 && RankDropout == 0), $"target_parameters: can't be used with dropout, found {Math.Max(Dropout, RankDropout)}");
        Require(!experts || !(UseDora || LoraBias), "target_parameters: can't be used with dora or lora_bias");
        Require(!experts || Init is "true" or "false" or "gaussian" or "eva", $"target_parameters: needs init true, false, gaussian or eva, found '{Init}'");
        Require(Init != "orthogonal" || (Rank % 2 == 0 && RankPattern.Values.All(r => r % 2 == 0)), "init orthogonal: needs even ranks");
        foreach ((string key, int rank) in RankPattern.Where(p => p.Value < 1))
        {
            faults.Add($"rank_pattern['{key}']: expected at least 1, found {rank}");
        }

        foreach ((string key, double alpha) in AlphaPattern.Where(p => !double.IsFinite(p.Value)))
        {
            faults.Add($"alpha_pattern['{key}']: expected a number, found {alpha}");
        }

        foreach (string name in (TrainableTokens ?? new Dictionary<string, IReadOnlyList<long>>()).Keys.Where(n => ModulesToSave?.Contains(n) == true))
        {
            faults.Add($"trainable_token_indices: '{name}' is also in modules_to_save, which trains all of its rows; give one of them");
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException($"The adapter's settings can't be used:\n  {string.Join("\n  ", faults)}");
        }
    }

    /// <summary>The same as a PEFT configuration.</summary>
    /// <param name="baseModel">Name of the base model to record.</param>
    public PeftConfig ToConfig(string? baseModel) => new()
    {
        BaseModel = baseModel,
        Rank = Rank,
        Alpha = Alpha,
        Dropout = Dropout,
        TargetModules = Targets,
        TargetParameters = TargetParameters,
        ExcludeModules = Exclude,
        LayersToTransform = LayersToTransform,
        LayersPattern = LayersPattern,
        RankPattern = RankPattern,
        AlphaPattern = AlphaPattern,
        UseRsLora = UseRsLora,
        UseDora = UseDora,
        LoraBias = LoraBias,
        Bias = Bias,
        ModulesToSave = ModulesToSave,
        TrainableTokens = TrainableTokens,
        FanInFanOut = FanInFanOut,
        InitLoraWeights = Init,
    };

    /// <summary>The settings that a saved adapter was made with, to make another like it.</summary>
    public static LoraOptions FromConfig(PeftConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        return new()
        {
            Rank = config.Rank,
            Alpha = config.Alpha,
            Dropout = config.Dropout,
            Targets = config.TargetModules,
            TargetParameters = config.TargetParameters,
            Exclude = config.ExcludeModules,
            LayersToTransform = config.LayersToTransform,
            LayersPattern = config.LayersPattern,
            RankPattern = config.RankPattern,
            AlphaPattern = config.AlphaPattern,
            UseRsLora = config.UseRsLora,
            UseDora = config.UseDora,
            LoraBias = config.LoraBias,
            Bias = config.Bias,
            ModulesToSave = config.ModulesToSave,
            TrainableTokens = config.TrainableTokens,
            FanInFanOut = config.FanInFanOut,
            Init = config.InitLoraWeights,
        };
    }

    private bool InitIsKnown => Init is "true" or "false" or "gaussian" or "pissa" or "olora" or "orthogonal" or "eva"
        || (Init.StartsWith("pissa_niter_", StringComparison.Ordinal) && int.TryParse(Init["pissa_niter_".Length..], out int rounds) && rounds >= 0);
}
