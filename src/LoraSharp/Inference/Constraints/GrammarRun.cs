namespace LoraSharp.Inference.Constraints;

/// <summary>Where a run goes on when a called rule's text has ended. Immutable; runs share them.</summary>
/// <param name="Rule">The caller.</param>
/// <param name="State">The caller's state behind the call.</param>
/// <param name="Count">The caller's counter.</param>
/// <param name="Depth">Objects and arrays that are open in the caller.</param>
/// <param name="Parent">Where the caller itself was called; null for the first rule.</param>
internal sealed record GrammarFrame(int Rule, int State, int Count, int Depth, GrammarFrame? Parent)
{
    /// <summary>Stands for whatever called, in runs that do not know it.</summary>
    public static GrammarFrame Unknown { get; } = new(-1, -1, 0, 0, null);

    private readonly int _hash = HashCode.Combine(Rule, State, Count, Depth, Parent?._hash);

    /// <inheritdoc/>
    public bool Equals(GrammarFrame? other) => ReferenceEquals(this, other)
        || (other is not null && _hash == other._hash && Rule == other.Rule && State == other.State && Count == other.Count && Depth == other.Depth && Equals(Parent, other.Parent));

    /// <inheritdoc/>
    public override int GetHashCode() => _hash;
}

/// <summary>One way a text can be read so far.</summary>
internal readonly record struct GrammarItem(int Rule, int State, int Count, int Depth, GrammarFrame? Caller);

/// <summary>All ways a text can be read so far; filled by <see cref="GrammarRun"/>.</summary>
internal sealed class GrammarItems
{
    /// <summary>The ways.</summary>
    public List<GrammarItem> All { get; } = [];

    /// <summary>Whether the whole text can end here.</summary>
    public bool IsComplete { get; set; }

    /// <summary>Whether a way has come back to an unknown caller.</summary>
    public bool HasLeft { get; set; }

    /// <summary>Whether no way leads on or out.</summary>
    public bool IsEmpty => All.Count == 0 && !IsComplete && !HasLeft;

    /// <summary>Forgets everything.</summary>
    public void Clear()
    {
        All.Clear();
        IsComplete = false;
        HasLeft = false;
    }
}

/// <summary>Reads bytes by a grammar, every way at once.</summary>
internal static class GrammarRun
{
    // Ways that differ come of alternatives that begin alike; a schema with more than this open at once is no honest one.
    private const int MostItems = 4096;

    /// <summary>The ways before the first byte.</summary>
    public static void Start(Grammar grammar, GrammarItems into)
    {
        into.Clear();
        Add(grammar, new GrammarItem(0, 0, 0, grammar.Weight(0), null), into);
    }

    /// <summary>The ways behind a byte.</summary>
    public static void Step(Grammar grammar, IReadOnlyList<GrammarItem> from, byte value, GrammarItems into)
    {
        into.Clear();
        for (int i = 0; i < from.Count; i++)
        {
            GrammarItem item = from[i];
            GrammarRule rule = grammar.Rule(item.Rule);
            int next = rule.Automaton.Next(item.State, value);
            if (next == Dfa.Dead || item.Depth + grammar.Height(item.Rule, next) > grammar.MaxDepth)
            {
                continue;
            }

            int count = item.Count;
            if (rule.IsCounted && !Counts(rule, rule.Automaton.Action(item.State, value), ref count))
            {
                continue;
            }

            Add(grammar, item with { State = next, Count = count }, into);
        }
    }

    /// <summary>Adds a way with all that it stands for without a further byte: rules it may call, callers it may return to.</summary>
    public static void Add(Grammar grammar, GrammarItem item, GrammarItems into)
    {
        List<GrammarItem> all = into.All;
        for (int i = 0; i < all.Count; i++)
        {
            if (all[i] == item)
            {
                return;
            }
        }

        if (all.Count >= MostItems)
        {
            throw new ConstraintException($"The constraint can be read in more than {MostItems} ways at once. Make its alternatives differ earlier.");
        }

        all.Add(item);
        GrammarRule rule = grammar.Rule(item.Rule);
        if (rule.Automaton.IsAccepting(item.State))
        {
            if (ReferenceEquals(item.Caller, GrammarFrame.Unknown))
            {
                into.HasLeft = true;
            }
            else if (item.Caller is { } caller)
            {
                Add(grammar, new GrammarItem(caller.Rule, caller.State, caller.Count, caller.Depth, caller.Parent), into);
            }
            else
            {
                into.IsComplete = true;
            }
        }

        foreach (DfaCall call in rule.Automaton.Calls(item.State))
        {
            int depth = item.Depth + grammar.Weight(call.Rule);
            int count = item.Count;
            if (depth + grammar.Height(call.Rule, 0) <= grammar.MaxDepth
                && item.Depth + grammar.Height(item.Rule, call.Return) <= grammar.MaxDepth
                && (!rule.IsCounted || Counts(rule, call.Action, ref count)))
            {
                Add(grammar, new GrammarItem(call.Rule, 0, 0, depth, new GrammarFrame(item.Rule, call.Return, count, item.Depth, item.Caller)), into);
            }
        }
    }

    /// <summary>Whether a counter lets an edge through; counts.</summary>
    public static bool Counts(GrammarRule rule, CountAction action, ref int count) => action switch
    {
        CountAction.Increment => count++ < rule.Most,
        CountAction.Close => count >= rule.Least,
        _ => true,
    };
}
