namespace LoraSharp.Training.Preferences;

/// <summary>How preferences become a loss.</summary>
public enum PreferenceKind
{
    /// <summary>DPO: −log σ(β·margin) (Rafailov et al. 2023, arXiv 2305.18290, equation 7); recipe name <c>dpo</c> or <c>sigmoid</c>.</summary>
    Sigmoid,

    /// <summary>IPO: (margin − 1/(2β))² of log-probabilities a token (Azar et al. 2023, arXiv 2310.12036, equation 17).</summary>
    Ipo,

    /// <summary>Hinge: max(0, 1 − β·margin) (SLiC-HF, Zhao et al. 2023, arXiv 2305.10425).</summary>
    Hinge,

    /// <summary>ORPO: likelihood of the chosen answer plus β times the odds ratio (Hong et al. 2024, arXiv 2403.07691, equation 6); no reference.</summary>
    Orpo,

    /// <summary>SimPO: −log σ(β·margin − γ) of log-probabilities a token (Meng et al. 2024, arXiv 2405.14734, equation 6); no reference.</summary>
    SimPo,

    /// <summary>KTO: single answers judged good or bad (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8).</summary>
    Kto,
}

/// <summary>Settings of preference training.</summary>
public sealed record PreferenceOptions
{
    /// <summary>Which loss.</summary>
    public PreferenceKind Kind { get; init; }

    /// <summary>β: how dear moving away from the reference is; of ORPO the weight of the odds ratio.</summary>
    public double Beta { get; init; } = 0.1;

    /// <summary>ε: share of pairs taken to be the wrong way round (conservative DPO); sigmoid and SimPO only.</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>γ of SimPO: the margin that is asked for, in units of reward.</summary>
    public double Gamma { get; init; } = 0.5;

    /// <summary>Weight of good answers in KTO.</summary>
    public double DesirableWeight { get; init; } = 1;

    /// <summary>Weight of bad answers in KTO.</summary>
    public double UndesirableWeight { get; init; } = 1;

    /// <summary>Whether log-probabilities under the base alone are needed.</summary>
    public bool NeedsReference => Kind is PreferenceKind.Sigmoid or PreferenceKind.Ipo or PreferenceKind.Hinge or PreferenceKind.Kto;

    /// <summary>Whether an answer's log-probability is divided by its tokens.</summary>
    public bool IsPerToken => Kind is PreferenceKind.Ipo or PreferenceKind.Orpo or PreferenceKind.SimPo;

    /// <summary>Every fault of the values, each with the recipe's key.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> faults = [];
        if (!(Beta > 0))
        {
            faults.Add(FormattableString.Invariant($"preference.beta: expected a positive number, found {Beta}"));
        }

        if (LabelSmoothing is not (>= 0 and < 0.5))
        {
            faults.Add(FormattableString.Invariant($"preference.label_smoothing: expected 0 to below 0.5, found {LabelSmoothing}"));
        }

        if (LabelSmoothing > 0 && Kind is not (PreferenceKind.Sigmoid or PreferenceKind.SimPo))
        {
            faults.Add($"preference.label_smoothing: has a meaning for dpo and simpo only, found it with {Kind}");
        }

        if (DesirableWeight < 0 || UndesirableWeight < 0)
        {
            faults.Add("preference.desirable_weight and undesirable_weight: expected 0 or more");
        }

        return faults;
    }
}
