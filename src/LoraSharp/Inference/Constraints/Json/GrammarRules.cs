namespace LoraSharp.Inference.Constraints.Json;

/// <summary>Rules of a grammar as they are put together: declared first, so that they can call each other, and defined later.</summary>
internal sealed class GrammarRules
{
    private readonly List<GrammarRule?> _rules = [];

    /// <summary>Creates them with the rule that begins a text, number 0.</summary>
    public GrammarRules(CompileBudget budget)
    {
        Budget = budget;
        Declare();
    }

    public CompileBudget Budget { get; }

    /// <summary>A new rule without a definition yet.</summary>
    public int Declare()
    {
        Budget.AddState();
        _rules.Add(null);
        return _rules.Count - 1;
    }

    /// <summary>Defines a rule by an automaton between two states.</summary>
    public void Define(int rule, Nfa nfa, int start, int accept, bool isContainer = false, int least = 0, int most = int.MaxValue) =>
        _rules[rule] = new GrammarRule(Determinizer.Run(nfa, start, accept), isContainer, least, most);

    /// <summary>Defines a rule as any one of others.</summary>
    public void DefineAsAny(int rule, IEnumerable<int> options)
    {
        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        foreach (int option in options.Distinct())
        {
            nfa.Call(start, accept, option);
        }

        Define(rule, nfa, start, accept);
    }

    /// <summary>The grammar; all rules are defined.</summary>
    public Grammar ToGrammar() => new([.. _rules.Select(r => r!)], Budget);
}
