namespace LoraSharp.Training.Rewards;

/// <summary>Settings of group-relative policy optimisation.</summary>
public sealed record GrpoOptions
{
    /// <summary>Completions sampled of each prompt; their mean reward is the baseline.</summary>
    public int GroupSize { get; init; } = 8;

    /// <summary>β of the divergence from the base; 0 (the default) needs no reference.</summary>
    public double Beta { get; init; }

    /// <summary>Divide by the spread of the group's rewards; off as in "Dr. GRPO" (arXiv 2503.20783), where easy and hard prompts keep their weight.</summary>
    public bool ScaleRewards { get; init; } = true;

    /// <summary>Every fault of the values.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> faults = [];
        if (GroupSize < 2)
        {
            faults.Add($"grpo.group_size: expected 2 or more (a baseline needs others), found {GroupSize}");
        }

        if (!(Beta >= 0))
        {
            faults.Add(FormattableString.Invariant($"grpo.beta: expected 0 or more, found {Beta}"));
        }

        return faults;
    }
}

/// <summary>Samples completions from the model as it is now.</summary>
/// <param name="prompt">Token ids.</param>
/// <param name="count">How many.</param>
/// <param name="seed">Equal seeds give equal completions.</param>
/// <returns>Token ids of each completion, without the prompt, with the end token where it was reached.</returns>
public delegate IReadOnlyList<int[]> SampleCompletions(int[] prompt, int count, long seed);

/// <summary>Judges a completion.</summary>
/// <param name="prompt">Token ids.</param>
/// <param name="reference">The row's own completion: what a check compares with.</param>
/// <param name="completion">What the model wrote.</param>
public delegate double CompletionReward(int[] prompt, int[] reference, int[] completion);
