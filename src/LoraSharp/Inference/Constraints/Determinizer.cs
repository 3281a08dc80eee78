namespace LoraSharp.Inference.Constraints;

/// <summary>
/// Subset construction (Rabin and Scott 1959). Bytes that no edge tells apart share a column of the table, so that it stays
/// small; calls are letters of their own.
/// </summary>
internal sealed class Determinizer
{
    private readonly Nfa _nfa;
    private readonly int _accept;
    private readonly byte[] _classOf = new byte[256];
    private readonly int _classes;
    private readonly Dictionary<int[], int> _ids = new(SetComparer.Instance);
    private readonly List<int[]> _sets = [];
    private readonly bool[] _seen;
    private readonly Stack<int> _stack = new();
    private readonly List<int> _found = [];

    private Determinizer(Nfa nfa, int accept)
    {
        _nfa = nfa;
        _accept = accept;
        _seen = new bool[nfa.Count];
        var cuts = new bool[257];
        for (int state = 0; state < nfa.Count; state++)
        {
            foreach (NfaEdge edge in nfa.Edges(state))
            {
                if (edge.Kind == NfaEdgeKind.Bytes)
                {
                    cuts[edge.Low] = true;
                    cuts[edge.High + 1] = true;
                }
            }
        }

        int current = 0;
        for (int value = 1; value < 256; value++)
        {
            current += cuts[value] ? 1 : 0;
            _classOf[value] = (byte)current;
        }

        _classes = current + 1;
    }

    /// <summary>The deterministic automaton of the texts between two states. Ways that lead nowhere are still in it.</summary>
    public static Dfa Run(Nfa nfa, int start, int accept) => new Determinizer(nfa, accept).Run(start);

    private Dfa Run(int start)
    {
        Id(Closure([start], atStart: true));
        var next = new List<int>();
        var actions = new List<CountAction>();
        var accepting = new List<bool>();
        var calls = new List<DfaCall[]>();
        var targets = new List<int>[_classes];
        for (int i = 0; i < _sets.Count; i++)
        {
            var action = new CountAction[_classes];
            Array.Clear(targets);
            var called = new Dictionary<(int Rule, CountAction Action), List<int>>();
            foreach (int state in _sets[i])
            {
                foreach (NfaEdge edge in _nfa.Edges(state))
                {
                    if (edge.Kind == NfaEdgeKind.Call)
                    {
                        if (!called.TryGetValue((edge.Rule, edge.Action), out List<int>? returns))
                        {
                            called.Add((edge.Rule, edge.Action), returns = []);
                        }

                        returns.Add(edge.To);
                    }
                    else if (edge.Kind == NfaEdgeKind.Bytes)
                    {
                        _nfa.Budget.Spend(_classOf[edge.High] - _classOf[edge.Low] + 1);
                        for (int c = _classOf[edge.Low]; c <= _classOf[edge.High]; c++)
                        {
                            (targets[c] ??= []).Add(edge.To);
                            action[c] = edge.Action;
                        }
                    }
                }
            }

            // Neighbouring columns mostly lead to the same set.
            List<int>? last = null;
            int lastId = Dfa.Dead;
            foreach (List<int>? set in targets)
            {
                if (set is not null && (last is null || !last.SequenceEqual(set)))
                {
                    last = set;
                    lastId = Id(Closure(set, atStart: false));
                }

                next.Add(set is null ? Dfa.Dead : lastId);
            }

            actions.AddRange(action);
            accepting.Add(Accepts(_sets[i]));
            calls.Add([.. called.Select(c => new DfaCall(c.Key.Rule, Id(Closure(c.Value, atStart: false)), c.Key.Action))]);
        }

        return new Dfa(_classOf, _classes, [.. next], [.. actions], [.. accepting], [.. calls]);
    }

    private int Id(int[] set)
    {
        if (!_ids.TryGetValue(set, out int id))
        {
            _nfa.Budget.AddState();
            id = _sets.Count;
            _ids.Add(set, id);
            _sets.Add(set);
        }

        return id;
    }

    private bool Accepts(int[] set) => Reach(set, atStart: false, atEnd: true).Contains(_accept);

    private int[] Closure(List<int> states, bool atStart)
    {
        List<int> found = Reach(states, atStart, atEnd: false);
        int[] sorted = [.. found];
        Array.Sort(sorted);
        return sorted;
    }

    private List<int> Reach(IEnumerable<int> states, bool atStart, bool atEnd)
    {
        _found.Clear();
        foreach (int state in states)
        {
            Push(state);
        }

        while (_stack.TryPop(out int state))
        {
            _nfa.Budget.Spend();
            foreach (NfaEdge edge in _nfa.Edges(state))
            {
                if (edge.Kind == NfaEdgeKind.Epsilon || (edge.Kind == NfaEdgeKind.AtStart && atStart) || (edge.Kind == NfaEdgeKind.AtEnd && atEnd))
                {
                    Push(edge.To);
                }
            }
        }

        foreach (int state in _found)
        {
            _seen[state] = false;
        }

        return _found;

        void Push(int state)
        {
            if (!_seen[state])
            {
                _seen[state] = true;
                _found.Add(state);
                _stack.Push(state);
            }
        }
    }

    private sealed class SetComparer : IEqualityComparer<int[]>
    {
        public static SetComparer Instance { get; } = new();

        public bool Equals(int[]? x, int[]? y) => x.AsSpan().SequenceEqual(y);

        public int GetHashCode(int[] set)
        {
            var hash = default(HashCode);
            foreach (int state in set)
            {
                hash.Add(state);
            }

            return hash.ToHashCode();
        }
    }
}
