namespace LoraSharp.Training.Sweeps;

/// <summary>What all trials of a sweep share.</summary>
public sealed record SweepOptions
{
    /// <summary>Optimizer steps.</summary>
    public required long Steps { get; init; }

    /// <summary>
    /// Most trials in one pass; 0 = as many as fill it. A pass gains by sharing the base's weights and the cost of each
    /// operator only until its tokens keep the machine busy; beyond that it only needs more memory, and on a CPU falls out
    /// of its caches (docs/benchmarks/train-cpu.md).
    /// </summary>
    public int AtOnce { get; init; }

    /// <summary>Tokens that fill a pass on a CPU.</summary>
    public const int CpuPassTokens = 512;

    /// <summary>Tokens that fill a pass on a GPU.</summary>
    public const int GpuPassTokens = 16384;

    /// <summary>Evaluate every so many steps, and at the end; 0 = only at the end.</summary>
    public long EvalInterval { get; init; }

    /// <summary>Take the worse half out every so many steps (successive halving); 0 = never.</summary>
    public long HalveEvery { get; init; }

    /// <summary>Sizes of the groups that go through a micro-batch one after the other, as equal as can be.</summary>
    /// <param name="trials">Trials that run.</param>
    /// <param name="tokens">Of the micro-batch, padding included.</param>
    /// <param name="passTokens">Tokens that fill a pass.</param>
    internal int GroupSize(int trials, int tokens, int passTokens)
    {
        int most = AtOnce > 0 ? AtOnce : Math.Max(1, passTokens / Math.Max(1, tokens));
        int groups = (trials + most - 1) / most;
        return (trials + groups - 1) / groups;
    }

    /// <summary>Every fault of the values.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> faults = [];
        if (Steps < 1)
        {
            faults.Add($"steps: expected 1 or more, found {Steps}");
        }

        if (AtOnce < 0)
        {
            faults.Add($"at_once: expected 0 (as many as fill a pass) or more, found {AtOnce}");
        }

        if (EvalInterval < 0 || HalveEvery < 0)
        {
            faults.Add("eval_interval and halve_every: expected 0 or more");
        }

        return faults;
    }
}
