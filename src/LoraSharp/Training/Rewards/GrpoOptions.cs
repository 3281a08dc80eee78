namespace LoraSharp.Training.Rewards;

/// <summary>Settings of group-relative policy optimisation.</summary>
public sealed record GrpoOptions
{
    /// <summary>Completions sampled of each prompt; their mean reward is the baseline.</summary>
    public int GroupSize { get; init; } = 8;

    /// <summary>Longest completion in tokens.</summary>
    public int MaxTokens { get; init; } = 128;

    /// <summary>Logits are divided by this, when sampling and when training: both see one distribution, so the policy's ratio is 1.</summary>
    public double Temperature { get; init; } = 1;

    /// <summary>β of the divergence from the base; 0 (the default) needs no reference.</summary>
    public double Beta { get; init; }

    /// <summary>Divide by the spread of the group's rewards; off as in "Dr. GRPO" (arXiv 2503.20783), where easy and hard prompts keep their weight.</summary>
    public bool ScaleRewards { get; init; } = true;

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
        return faults;
    }
}
