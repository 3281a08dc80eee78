namespace LoraSharp.Inference.Constraints;

/// <summary>A call of another rule out of a state.</summary>
internal readonly record struct DfaCall(int Rule, int Return, CountAction Action);

/// <summary>
/// A deterministic automaton over bytes, with calls of other rules beside them. State 0 is the first. A call and a byte may
/// both lead on from one state: whoever runs it follows both.
/// </summary>
internal sealed class Dfa
{
    /// <summary>No way on.</summary>
    public const int Dead = -1;

    private readonly byte[] _classOf;
    private readonly int _classes;
    private readonly int[] _next;
    private readonly CountAction[] _actions;
    private readonly bool[] _accepting;
    private readonly DfaCall[][] _calls;

    internal Dfa(byte[] classOf, int classes, int[] next, CountAction[] actions, bool[] accepting, DfaCall[][] calls)
    {
        _classOf = classOf;
        _classes = classes;
        _next = next;
        _actions = actions;
        _accepting = accepting;
        _calls = calls;
    }

    /// <summary>Number of states.</summary>
    public int Count => _accepting.Length;

    public bool IsAccepting(int state) => _accepting[state];

    public DfaCall[] Calls(int state) => _calls[state];

    /// <summary>Where a byte leads, or <see cref="Dead"/>.</summary>
    public int Next(int state, byte value) => _next[(state * _classes) + _classOf[value]];

    /// <summary>What the byte does to the counter.</summary>
    public CountAction Action(int state, byte value) => _actions[(state * _classes) + _classOf[value]];

    /// <summary>The states that bytes lead to, each once.</summary>
    public IEnumerable<int> Targets(int state) => _next.Skip(state * _classes).Take(_classes).Where(t => t >= 0).Distinct();

    /// <summary>Closes every way to or through a state that fails the test.</summary>
    public void Prune(Func<int, bool> lives, Func<DfaCall, bool> callLives)
    {
        for (int i = 0; i < _next.Length; i++)
        {
            _next[i] = _next[i] >= 0 && lives(_next[i]) ? _next[i] : Dead;
        }

        for (int i = 0; i < _calls.Length; i++)
        {
            _calls[i] = [.. _calls[i].Where(c => lives(c.Return) && callLives(c))];
        }
    }

    /// <summary>Whether bytes lead on from a state.</summary>
    public bool HasBytes(int state) => _next.AsSpan(state * _classes, _classes).IndexOfAnyExcept(Dead) >= 0;

    /// <summary>Whether a whole text is accepted; for automata without calls.</summary>
    public bool Matches(ReadOnlySpan<byte> text)
    {
        int state = 0;
        foreach (byte value in text)
        {
            state = Next(state, value);
            if (state == Dead)
            {
                return false;
            }
        }

        return _accepting[state];
    }

    /// <summary>The texts that both accept; neither has calls.</summary>
    public static Dfa Intersect(Dfa a, Dfa b, CompileBudget budget)
    {
        var ids = new Dictionary<(int, int), int> { [(0, 0)] = 0 };
        var order = new List<(int A, int B)> { (0, 0) };
        var next = new List<int>();
        for (int i = 0; i < order.Count; i++)
        {
            (int x, int y) = order[i];
            budget.AddState();
            budget.Spend(256);
            for (int value = 0; value < 256; value++)
            {
                int p = a.Next(x, (byte)value), q = b.Next(y, (byte)value);
                int target = Dead;
                if (p >= 0 && q >= 0 && !ids.TryGetValue((p, q), out target))
                {
                    target = order.Count;
                    ids.Add((p, q), target);
                    order.Add((p, q));
                }

                next.Add(target);
            }
        }

        byte[] identity = [.. Enumerable.Range(0, 256).Select(v => (byte)v)];
        var both = new Dfa(identity, 256, [.. next], new CountAction[next.Count], [.. order.Select(p => a.IsAccepting(p.A) && b.IsAccepting(p.B))], [.. order.Select(_ => Array.Empty<DfaCall>())]);
        both.PruneDeadEnds();
        return both;
    }

    /// <summary>Closes the ways from which no accepting state can be reached; for automata without calls.</summary>
    public void PruneDeadEnds()
    {
        var before = new List<int>[Count];
        for (int state = 0; state < Count; state++)
        {
            foreach (int target in Targets(state))
            {
                (before[target] ??= []).Add(state);
            }
        }

        bool[] lives = [.. _accepting];
        var queue = new Queue<int>(Enumerable.Range(0, Count).Where(s => lives[s]));
        while (queue.TryDequeue(out int state))
        {
            foreach (int source in before[state] ?? [])
            {
                if (!lives[source])
                {
                    lives[source] = true;
                    queue.Enqueue(source);
                }
            }
        }

        Prune(s => lives[s], _ => true);
    }
}
