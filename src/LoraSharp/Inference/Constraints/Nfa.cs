namespace LoraSharp.Inference.Constraints;

/// <summary>What passing an edge does to the counter of its rule (items of an array, characters of a text).</summary>
internal enum CountAction : byte
{
    /// <summary>Nothing.</summary>
    None,

    /// <summary>Counts one more; closed when the most are reached.</summary>
    Increment,

    /// <summary>Open only when the least are reached.</summary>
    Close,
}

/// <summary>How an edge is passed.</summary>
internal enum NfaEdgeKind : byte
{
    /// <summary>By nothing.</summary>
    Epsilon,

    /// <summary>By nothing, at the beginning of the rule's text only.</summary>
    AtStart,

    /// <summary>By nothing, when no more text of the rule follows.</summary>
    AtEnd,

    /// <summary>By a byte of a range.</summary>
    Bytes,

    /// <summary>By a text of another rule.</summary>
    Call,
}

/// <summary>An edge of a nondeterministic automaton.</summary>
internal readonly record struct NfaEdge(NfaEdgeKind Kind, int To, byte Low, byte High, int Rule, CountAction Action);

/// <summary>A nondeterministic automaton over bytes and calls of other rules, as it is put together (Thompson 1968).</summary>
internal sealed class Nfa(CompileBudget budget)
{
    private readonly List<List<NfaEdge>> _edges = [];

    public int Count => _edges.Count;

    public CompileBudget Budget { get; } = budget;

    public IReadOnlyList<NfaEdge> Edges(int state) => _edges[state];

    public int AddState()
    {
        Budget.AddPart();
        _edges.Add([]);
        return _edges.Count - 1;
    }

    public void Epsilon(int from, int to, NfaEdgeKind kind = NfaEdgeKind.Epsilon) => Add(from, new NfaEdge(kind, to, 0, 0, 0, CountAction.None));

    public void Bytes(int from, int to, byte low, byte high, CountAction action = CountAction.None) => Add(from, new NfaEdge(NfaEdgeKind.Bytes, to, low, high, 0, action));

    public void Call(int from, int to, int rule, CountAction action = CountAction.None) => Add(from, new NfaEdge(NfaEdgeKind.Call, to, 0, 0, rule, action));

    /// <summary>These bytes one after another.</summary>
    /// <param name="from">State before them.</param>
    /// <param name="bytes">At least one.</param>
    /// <param name="action">Of the first.</param>
    /// <returns>The state behind them.</returns>
    public int Literal(int from, ReadOnlySpan<byte> bytes, CountAction action = CountAction.None)
    {
        foreach (byte one in bytes)
        {
            int next = AddState();
            Bytes(from, next, one, one, action);
            action = CountAction.None;
            from = next;
        }

        return from;
    }

    /// <summary>A copy of a deterministic automaton without calls between two states.</summary>
    public void Embed(Dfa dfa, int from, int to)
    {
        int[] states = [.. Enumerable.Range(0, dfa.Count).Select(_ => AddState())];
        Epsilon(from, states[0]);
        for (int state = 0; state < dfa.Count; state++)
        {
            if (dfa.IsAccepting(state))
            {
                Epsilon(states[state], to);
            }

            for (int low = 0; low < 256;)
            {
                int target = dfa.Next(state, (byte)low);
                int high = low;
                while (high < 255 && dfa.Next(state, (byte)(high + 1)) == target)
                {
                    high++;
                }

                if (target >= 0)
                {
                    Bytes(states[state], states[target], (byte)low, (byte)high);
                }

                low = high + 1;
            }
        }
    }

    private void Add(int from, NfaEdge edge)
    {
        Budget.AddPart();
        _edges[from].Add(edge);
    }
}
