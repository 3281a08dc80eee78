namespace LoraSharp.Training.Rewards;

/// <summary>Settings of group-relative policy optimisation.</summary>
public sealed record GrpoOptions
{
    /// <summary>Completions sampled of each prompt; their mean reward is the baseline.</summary>
    public int GroupSize { get; init; } = 8;

    /// <summary>Longest completion in tokens.</summary>
    public int MaxTokens { get; init; } = 128;

    /// <summary>Logits are divided by this, when sampling and when training: both see one distribution, so the policy's ratio starts at 1.</summary>
    public double Temperature { get; init; } = 1;

    /// <summary>β of the divergence from the base; 0 (the default) needs no reference.</summary>
    public double Beta { get; init; }

    /// <summary>Divide by the spread of the group's rewards; off as in "Dr. GRPO" (arXiv 2503.20783), where easy and hard prompts keep their weight.</summary>
    public bool ScaleRewards { get; init; } = true;

    /// <summary>μ: optimizer steps on each sample. From the second on the ratio of the policies of now and of the sampling is clipped.</summary>
    public int Iterations { get; init; } = 1;

    /// <summary>ε: the ratio counts down to 1 − ε.</summary>
    public double Epsilon { get; init; } = 0.2;

    /// <summary>The ratio counts up to 1 + this; null for <see cref="Epsilon"/>. Larger than it as in DAPO (Yu et al. 2025, arXiv 2503.14476, section 3.1).</summary>
    public double? EpsilonHigh { get; init; }

    /// <summary>Every fault of the values.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> faults = [];
        void Check(bool good, FormattableString fault)
        {
            if (!good)
            {
                faults.Add(FormattableString.Invariant(fault));
            }
        }

        Check(GroupSize >= 2, $"grpo.group_size: expected 2 or more (a baseline needs others), found {GroupSize}");
        Check(MaxTokens >= 1, $"grpo.max_tokens: expected 1 or more, found {MaxTokens}");
        Check(Temperature > 0 && double.IsFinite(Temperature), $"grpo.temperature: expected more than 0 (a group of equal completions teaches nothing), found {Temperature}");
        Check(Beta >= 0 && double.IsFinite(Beta), $"grpo.beta: expected 0 or more, found {Beta}");
        Check(Iterations >= 1, $"grpo.iterations: expected 1 or more, found {Iterations}");
        Check(Epsilon is > 0 and < 1, $"grpo.epsilon: expected more than 0 and less than 1, found {Epsilon}");
        Check(EpsilonHigh is null or (> 0 and < double.PositiveInfinity), $"grpo.epsilon_high: expected more than 0, found {EpsilonHigh}");
        return faults;
    }
}
