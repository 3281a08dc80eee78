namespace LoraSharp.Inference.Constraints;

/// <summary>A rule of a grammar: an automaton whose edges are bytes and texts of other rules.</summary>
/// <param name="Automaton">The automaton.</param>
/// <param name="IsContainer">Whether it is an object or array, which counts as a level of nesting.</param>
/// <param name="Least">Fewest counts before a <see cref="CountAction.Close"/>.</param>
/// <param name="Most">Most counts.</param>
internal sealed record GrammarRule(Dfa Automaton, bool IsContainer = false, int Least = 0, int Most = int.MaxValue)
{
    /// <summary>Whether its counts matter.</summary>
    public bool IsCounted => Least > 0 || Most < int.MaxValue;
}

/// <summary>
/// Rules that call each other (a recursive transition network, Woods 1970): with one rule a regular language, with
/// recursion JSON. Immutable; knows for each state how much nesting a text still needs, so that a state from which
/// no text within the limit can end is never entered.
/// </summary>
internal sealed class Grammar
{
    /// <summary>No text ends from here.</summary>
    private const int Never = int.MaxValue;

    private readonly GrammarRule[] _rules;
    private readonly int[][] _heights;

    /// <summary>Checks and prunes the rules.</summary>
    /// <param name="rules">The first is where a text begins.</param>
    /// <param name="budget">What it may cost, and how deep a text may be.</param>
    /// <exception cref="ConstraintException">No text is in the grammar, or a rule stands for itself.</exception>
    public Grammar(IReadOnlyList<GrammarRule> rules, CompileBudget budget)
    {
        _rules = [.. rules];
        MaxDepth = budget.Limits.MaxDepth;
        CheckLeftRecursion();
        _heights = Heights(budget);
        int least = Weight(0) + (long)_heights[0][0] > MaxDepth ? Never : _heights[0][0];
        if (least == Never)
        {
            throw new ConstraintException($"No text satisfies the constraint (with objects and arrays at most {MaxDepth} deep): its parts contradict each other, or a required part contains itself.");
        }

        for (int rule = 0; rule < _rules.Length; rule++)
        {
            int[] heights = _heights[rule];
            _rules[rule].Automaton.Prune(s => heights[s] <= MaxDepth, c => Weight(c.Rule) + (long)_heights[c.Rule][0] <= MaxDepth);
            MaxHeight = Math.Max(MaxHeight, heights.Where(h => h <= MaxDepth).DefaultIfEmpty(0).Max());
        }
    }

    /// <summary>Deepest nesting.</summary>
    public int MaxDepth { get; }

    /// <summary>Most nesting that any state still needs.</summary>
    public int MaxHeight { get; }

    /// <summary>The rules.</summary>
    public IReadOnlyList<GrammarRule> Rules => _rules;

    /// <summary>A rule.</summary>
    public GrammarRule Rule(int rule) => _rules[rule];

    /// <summary>1 for an object or array.</summary>
    public int Weight(int rule) => _rules[rule].IsContainer ? 1 : 0;

    /// <summary>Levels of nesting that the rest of a rule's text needs at least.</summary>
    public int Height(int rule, int state) => _heights[rule][state];

    // A rule that begins with itself would be expanded for ever: {"$ref": "#"}.
    private void CheckLeftRecursion()
    {
        var colour = new byte[_rules.Length];
        for (int rule = 0; rule < _rules.Length; rule++)
        {
            Visit(rule, 0);
        }

        void Visit(int rule, int depth)
        {
            if (colour[rule] == 1 || depth > 1000)
            {
                throw new ConstraintException("A part of the constraint stands for itself: a $ref leads back to where it stands without anything in between.");
            }

            if (colour[rule] == 0)
            {
                colour[rule] = 1;
                foreach (DfaCall call in _rules[rule].Automaton.Calls(0))
                {
                    Visit(call.Rule, depth + 1);
                }

                colour[rule] = 2;
            }
        }
    }

    // The least height at which an accepting state can be reached, by corrections until nothing changes.
    private int[][] Heights(CompileBudget budget)
    {
        int[][] heights = [.. _rules.Select(r => Enumerable.Range(0, r.Automaton.Count).Select(s => r.Automaton.IsAccepting(s) ? 0 : Never).ToArray())];
        var sources = new List<(int Rule, int State)>[_rules.Length][];
        for (int rule = 0; rule < _rules.Length; rule++)
        {
            sources[rule] = new List<(int, int)>[_rules[rule].Automaton.Count];
        }

        var targets = new int[_rules.Length][][];
        var queue = new Queue<(int Rule, int State)>();
        for (int rule = 0; rule < _rules.Length; rule++)
        {
            Dfa automaton = _rules[rule].Automaton;
            targets[rule] = new int[automaton.Count][];
            for (int state = 0; state < automaton.Count; state++)
            {
                targets[rule][state] = [.. automaton.Targets(state)];
                foreach (int target in targets[rule][state])
                {
                    (sources[rule][target] ??= []).Add((rule, state));
                }

                foreach (DfaCall call in automaton.Calls(state))
                {
                    (sources[rule][call.Return] ??= []).Add((rule, state));
                    (sources[call.Rule][0] ??= []).Add((rule, state));
                }

                if (automaton.IsAccepting(state))
                {
                    queue.Enqueue((rule, state));
                }
            }
        }

        while (queue.TryDequeue(out (int Rule, int State) changed))
        {
            foreach ((int rule, int state) in sources[changed.Rule][changed.State] ?? [])
            {
                budget.Spend();
                int height = Compute(rule, state);
                if (height < heights[rule][state])
                {
                    heights[rule][state] = height;
                    queue.Enqueue((rule, state));
                }
            }
        }

        return heights;

        int Compute(int rule, int state)
        {
            Dfa automaton = _rules[rule].Automaton;
            int best = automaton.IsAccepting(state) ? 0 : Never;
            foreach (int target in targets[rule][state])
            {
                best = Math.Min(best, heights[rule][target]);
            }

            foreach (DfaCall call in automaton.Calls(state))
            {
                int inner = heights[call.Rule][0];
                best = Math.Min(best, inner == Never ? Never : Math.Max(inner + Weight(call.Rule), heights[rule][call.Return]));
            }

            return best;
        }
    }
}
