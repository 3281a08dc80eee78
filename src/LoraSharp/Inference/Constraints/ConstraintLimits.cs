using LoraSharp.Formats;

namespace LoraSharp.Inference.Constraints;

/// <summary>
/// What compiling a constraint may cost. Expressions and schemas come from anybody who may send a request; a few hundred
/// characters can stand for more states than there is memory.
/// </summary>
public sealed record ConstraintLimits
{
    /// <summary>Longest expression or schema, in characters.</summary>
    public int MaxSourceLength { get; init; } = 256 << 10;

    /// <summary>Most automaton states, all rules together.</summary>
    public int MaxStates { get; init; } = 100_000;

    /// <summary>Most elementary steps of compiling; twenty million take about half a second.</summary>
    public long MaxSteps { get; init; } = 20_000_000;

    /// <summary>Deepest nesting of objects and arrays in a generated text; System.Text.Json reads 64.</summary>
    public int MaxDepth { get; init; } = 64;

    /// <summary>Compiled constraints that are kept for requests to come, the least recently used going first.</summary>
    public int MaxKept { get; init; } = 64;

    /// <summary>Token masks that one constraint keeps; a mask of 150,000 tokens has 19 kB.</summary>
    public int MaxMasks { get; init; } = 1024;

    /// <summary>Fails with every value that is out of range.</summary>
    public ConstraintLimits Validate()
    {
        List<string> faults = [.. new (string Name, long Value)[]
        {
            (nameof(MaxSourceLength), MaxSourceLength), (nameof(MaxStates), MaxStates), (nameof(MaxSteps), MaxSteps),
            (nameof(MaxDepth), MaxDepth), (nameof(MaxKept), MaxKept), (nameof(MaxMasks), MaxMasks),
        }.Where(p => p.Value < 1).Select(p => $"{p.Name} {p.Value}: expected 1 or more")];
        return faults.Count == 0 ? this : throw new LoraSharpException($"Limits of constraints out of range:\n  {string.Join("\n  ", faults)}");
    }
}

/// <summary>An expression or schema that cannot be a constraint: malformed, not supported, too large, or without any text.</summary>
public sealed class ConstraintException(string message) : LoraSharpException(message);

/// <summary>Counts what compiling costs and stops it in time.</summary>
internal sealed class CompileBudget(ConstraintLimits limits)
{
    private long _steps;
    private int _states;
    private int _parts;

    public ConstraintLimits Limits { get; } = limits;

    public void Spend(long steps = 1)
    {
        if ((_steps += steps) > Limits.MaxSteps)
        {
            throw new ConstraintException($"The constraint is too complex: compiling it takes more than {Limits.MaxSteps} steps. Make its repetitions shorter or its alternatives fewer.");
        }
    }

    /// <summary>A state or an edge of an automaton that is only a means: as many as ten times the states that stay.</summary>
    public void AddPart()
    {
        Spend();
        if (++_parts > 10 * (long)Limits.MaxStates)
        {
            throw TooLarge();
        }
    }

    public void AddState()
    {
        Spend();
        if (++_states > Limits.MaxStates)
        {
            throw TooLarge();
        }
    }

    private ConstraintException TooLarge() => new($"The constraint is too large: its automaton has more than {Limits.MaxStates} states. Make its repetitions shorter or its alternatives fewer.");
}
