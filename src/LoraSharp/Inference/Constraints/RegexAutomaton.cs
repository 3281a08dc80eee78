namespace LoraSharp.Inference.Constraints;

/// <summary>Regular expressions as automata over bytes.</summary>
internal sealed class RegexAutomaton
{
    private readonly Nfa _nfa;
    private readonly CharacterWriter _writer;

    private RegexAutomaton(Nfa nfa, bool json)
    {
        _nfa = nfa;
        _writer = new CharacterWriter(json);
    }

    /// <summary>The texts of an expression.</summary>
    /// <param name="source">The expression.</param>
    /// <param name="json">Whether the text stands between a JSON text's quotes.</param>
    /// <param name="search">Whether a match anywhere in the text will do (JSON Schema's <c>pattern</c>) instead of one of the whole.</param>
    /// <param name="budget">What it may cost.</param>
    /// <exception cref="ConstraintException">The expression is malformed, not regular, too large, or matches nothing.</exception>
    public static Dfa Build(string source, bool json, bool search, CompileBudget budget)
    {
        Dfa dfa = Build(RegexParser.Parse(source, budget.Limits), json, search, budget);
        return dfa.IsAccepting(0) || dfa.HasBytes(0) ? dfa : throw new ConstraintException($"The regular expression '{(source.Length > 80 ? source[..80] + "…" : source)}' matches no text.");
    }

    /// <summary>The texts of an expression that is taken apart already; maybe none.</summary>
    public static Dfa Build(RegexNode node, bool json, bool search, CompileBudget budget)
    {
        var nfa = new Nfa(budget);
        var automaton = new RegexAutomaton(nfa, json);
        int start = nfa.AddState();
        int end = nfa.AddState();
        if (search)
        {
            automaton._writer.Add(nfa, start, start, CharacterClass.Any);
            automaton._writer.Add(nfa, end, end, CharacterClass.Any);
        }

        nfa.Epsilon(automaton.Add(node, start), end);
        Dfa dfa = Determinizer.Run(nfa, start, end);
        dfa.PruneDeadEnds();
        return dfa;
    }

    // Returns the state behind the part. Every part begins in a state of its own that nothing leads back to but itself.
    private int Add(RegexNode node, int from)
    {
        _nfa.Budget.Spend();
        switch (node)
        {
            case RegexNode.OneOf one:
                int next = _nfa.AddState();
                _writer.Add(_nfa, from, next, one.Set);
                return next;
            case RegexNode.Sequence sequence:
                return sequence.Parts.Aggregate(from, (at, part) => Add(part, at));
            case RegexNode.Choice choice:
                int join = _nfa.AddState();
                foreach (RegexNode option in choice.Options)
                {
                    int branch = _nfa.AddState();
                    _nfa.Epsilon(from, branch);
                    _nfa.Epsilon(Add(option, branch), join);
                }

                return join;
            case RegexNode.Repeat repeat:
                return AddRepeat(repeat, from);
            case RegexNode.Start:
                return Anchor(from, NfaEdgeKind.AtStart);
            default:
                return Anchor(from, NfaEdgeKind.AtEnd);
        }
    }

    private int AddRepeat(RegexNode.Repeat repeat, int from)
    {
        if (repeat is { Most: null, Part: RegexNode.OneOf { WhenRepeated: { } wider } })
        {
            repeat = repeat with { Part = new RegexNode.OneOf(wider) };
        }

        for (int i = 0; i < repeat.Least; i++)
        {
            from = Add(repeat.Part, from);
        }

        if (repeat.Most is not { } most)
        {
            int loop = _nfa.AddState();
            _nfa.Epsilon(from, loop);
            _nfa.Epsilon(Add(repeat.Part, loop), loop);
            int behind = _nfa.AddState();
            _nfa.Epsilon(loop, behind);
            return behind;
        }

        int end = _nfa.AddState();
        _nfa.Epsilon(from, end);
        for (int i = repeat.Least; i < most; i++)
        {
            from = Add(repeat.Part, from);
            _nfa.Epsilon(from, end);
        }

        return end;
    }

    private int Anchor(int from, NfaEdgeKind kind)
    {
        int next = _nfa.AddState();
        _nfa.Epsilon(from, next, kind);
        return next;
    }
}
