namespace LoraSharp.Training.Sweeps;

/// <summary>What all trials of a sweep share.</summary>
public sealed record SweepOptions
{
    /// <summary>Optimizer steps.</summary>
    public required long Steps { get; init; }

    /// <summary>Trials in one pass: more use the machine better and need more memory for activations.</summary>
    public int AtOnce { get; init; } = 8;

    /// <summary>Evaluate every so many steps, and at the end; 0 = only at the end.</summary>
    public long EvalInterval { get; init; }

    /// <summary>Take the worse half out every so many steps (successive halving); 0 = never.</summary>
    public long HalveEvery { get; init; }

    /// <summary>Every fault of the values.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> faults = [];
        if (Steps < 1)
        {
            faults.Add($"steps: expected 1 or more, found {Steps}");
        }

        if (AtOnce < 1)
        {
            faults.Add($"at_once: expected 1 or more, found {AtOnce}");
        }

        if (EvalInterval < 0 || HalveEvery < 0)
        {
            faults.Add("eval_interval and halve_every: expected 0 or more");
        }

        return faults;
    }
}
