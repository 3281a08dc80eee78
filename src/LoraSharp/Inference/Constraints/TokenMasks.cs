using System.Runtime.InteropServices;

namespace LoraSharp.Inference.Constraints;

/// <summary>
/// Which tokens may come next, for the states of one grammar over one vocabulary. A mask is worked out once for a state
/// without regard to what called its rule: most tokens stay in the rule (or in rules it calls). Where a token's bytes go on
/// behind the rule's end the walk stops and remembers the node; from there the caller's mask goes on, worked out once for
/// each pair of ends and caller's state. So a step of a running text is a few look-ups, however deep it is nested
/// (the split into tokens that need the stack and tokens that do not is that of Dong et al. 2024, XGrammar, section 3).
/// </summary>
internal sealed class TokenMasks(Grammar grammar, TokenVocabulary vocabulary, int most)
{
    private readonly Dictionary<Key, Part> _parts = [];
    private readonly List<Level> _levels = [];
    private readonly GrammarItems _first = new();
    private int _numbers;

    /// <summary>Masks kept.</summary>
    public int Count => _parts.Count;

    /// <summary>Sets the bit of each token that may follow.</summary>
    /// <param name="items">The ways the text so far can be read.</param>
    /// <param name="mask">A bit a token, 64 a word; only set here.</param>
    public void Collect(GrammarItems items, Span<ulong> mask)
    {
        foreach (GrammarItem item in items.All)
        {
            if (grammar.Rule(item.Rule).Automaton.HasBytes(item.State))
            {
                Part part = OfState(item);
                part.AddTo(mask);
                Behind(part, item.Caller, mask);
            }
        }
    }

    // The tokens whose bytes go on behind the end of the rule.
    private void Behind(Part part, GrammarFrame? caller, Span<ulong> mask)
    {
        for (; part.Exits.Length > 0 && caller is not null; caller = caller.Parent)
        {
            part = OfReturn(part, caller);
            part.AddTo(mask);
        }
    }

    private Part OfState(GrammarItem item)
    {
        Key key = KeyOf(-1, item);
        if (_parts.TryGetValue(key, out Part? part))
        {
            return part;
        }

        _first.Clear();
        _first.All.Add(item with { Caller = GrammarFrame.Unknown });
        var found = new Found();
        Walk(0, _first.All, found);
        return Keep(key, found);
    }

    private Part OfReturn(Part ended, GrammarFrame frame)
    {
        var item = new GrammarItem(frame.Rule, frame.State, frame.Count, frame.Depth, GrammarFrame.Unknown);
        Key key = KeyOf(ended.Number, item);
        if (_parts.TryGetValue(key, out Part? part))
        {
            return part;
        }

        _first.Clear();
        GrammarRun.Add(grammar, item, _first);
        var found = new Found();
        GrammarItem[] items = [.. _first.All];
        bool left = _first.HasLeft;
        foreach (int node in ended.Exits)
        {
            Walk(node, items, found);
            if (left)
            {
                found.Exits.Add(node);
            }
        }

        return Keep(key, found);
    }

    // Every descendant of a node that the items can go on to. Most of the way there is a single way to read on that neither
    // calls nor ends: its state and count are all that changes then, and no list of ways is made.
    private void Walk(int root, IReadOnlyList<GrammarItem> items, Found found)
    {
        int top = vocabulary.Depth(root), last = vocabulary.End(root);
        Level start = At(0);
        start.Items.Clear();
        start.Items.All.AddRange(items);
        start.Settle(grammar);
        for (int node = root + 1; node < last;)
        {
            Level before = _levels[vocabulary.Depth(node) - top - 1], here = At(vocabulary.Depth(node) - top);
            if (before.Single is { } way && way.Automaton.Next(before.State, vocabulary.Label(node)) is var next && (next == Dfa.Dead || way.IsAlone(next)))
            {
                if (next == Dfa.Dead || !way.Reads(before.State, next, vocabulary.Label(node), before.Count, out int count))
                {
                    node = vocabulary.End(node);
                    continue;
                }

                (here.Single, here.State, here.Count) = (way, next, count);
                found.Tokens.AddRange(vocabulary.TokensAt(node));
                node++;
                continue;
            }

            GrammarRun.Step(grammar, before.Ways(), vocabulary.Label(node), here.Items);
            here.Settle(grammar);
            int end = vocabulary.End(node);
            if (here.Items.IsEmpty)
            {
                node = end;
                continue;
            }

            found.Tokens.AddRange(vocabulary.TokensAt(node));
            if (here.Items.HasLeft && end > node + 1)
            {
                found.Exits.Add(node);
            }

            node = here.Items.All.Count == 0 ? end : node + 1;
        }
    }

    private Level At(int depth)
    {
        while (_levels.Count <= depth)
        {
            _levels.Add(new Level());
        }

        return _levels[depth];
    }

    private Part Keep(Key key, Found found)
    {
        if (_parts.Count >= most)
        {
            _parts.Clear();
        }

        var part = new Part(_numbers++, found, vocabulary.Size);
        _parts.Add(key, part);
        return part;
    }

    // Counts and depths that are further from their bounds than any token reaches make no difference.
    private Key KeyOf(int ended, GrammarItem item)
    {
        GrammarRule rule = grammar.Rule(item.Rule);
        int far = vocabulary.LongestToken + 1;
        int toLeast = rule.IsCounted ? Math.Clamp(rule.Least - item.Count, 0, far) : 0;
        int toMost = rule.IsCounted ? Math.Min(rule.Most - item.Count, far) : 0;
        int room = Math.Min(grammar.MaxDepth - item.Depth, vocabulary.MostOpened + grammar.MaxHeight + 1);
        return new Key(ended, item.Rule, item.State, toLeast, toMost, room);
    }

    private readonly record struct Key(int Ended, int Rule, int State, int ToLeast, int ToMost, int Room);

    private sealed class Found
    {
        public List<int> Tokens { get; } = [];

        public List<int> Exits { get; } = [];
    }

    /// <summary>How the text can be read up to a node of the walk.</summary>
    private sealed class Level
    {
        /// <summary>The ways; not kept where there is a <see cref="Single"/> one.</summary>
        public GrammarItems Items { get; } = new();

        /// <summary>The only way, but for its state and count; null where there are others, or one that calls or ends.</summary>
        public SingleWay? Single { get; set; }

        public int State { get; set; }

        public int Count { get; set; }

        /// <summary>Sees whether <see cref="Items"/> is a single way.</summary>
        public void Settle(Grammar grammar)
        {
            Single = null;
            if (Items is { IsComplete: false, HasLeft: false, All: [{ } only] } && SingleWay.Of(grammar, only) is { } way)
            {
                (Single, State, Count) = (way, only.State, only.Count);
            }
        }

        public List<GrammarItem> Ways()
        {
            if (Single is { } way)
            {
                Items.Clear();
                Items.All.Add(way.At(State, Count));
            }

            return Items.All;
        }
    }

    /// <summary>A way within one rule, where that neither calls others nor ends.</summary>
    private sealed class SingleWay(Grammar grammar, GrammarItem item)
    {
        private readonly GrammarRule _rule = grammar.Rule(item.Rule);

        public Dfa Automaton { get; } = grammar.Rule(item.Rule).Automaton;

        public static SingleWay? Of(Grammar grammar, GrammarItem item)
        {
            var way = new SingleWay(grammar, item);
            return way.IsAlone(item.State) ? way : null;
        }

        public bool IsAlone(int state) => !Automaton.IsAccepting(state) && Automaton.Calls(state).Length == 0;

        /// <summary>Whether the bounds of nesting and counting let a byte through.</summary>
        public bool Reads(int state, int next, byte value, int before, out int count)
        {
            count = before;
            return item.Depth + grammar.Height(item.Rule, next) <= grammar.MaxDepth
                && (!_rule.IsCounted || GrammarRun.Counts(_rule, Automaton.Action(state, value), ref count));
        }

        public GrammarItem At(int state, int count) => item with { State = state, Count = count };
    }

    /// <summary>Tokens as a list where they are few, as bits where they are many.</summary>
    private sealed class Part
    {
        private readonly int[]? _tokens;
        private readonly ulong[]? _bits;

        public Part(int number, Found found, int size)
        {
            Number = number;
            Exits = [.. found.Exits];
            if (found.Tokens.Count * 32 < size)
            {
                _tokens = [.. found.Tokens];
                return;
            }

            _bits = new ulong[(size + 63) / 64];
            foreach (int token in CollectionsMarshal.AsSpan(found.Tokens))
            {
                _bits[token >> 6] |= 1UL << (token & 63);
            }
        }

        /// <summary>Names its ends; never used twice.</summary>
        public int Number { get; }

        /// <summary>Nodes at which the rule ends and tokens go on.</summary>
        public int[] Exits { get; }

        public void AddTo(Span<ulong> mask)
        {
            if (_bits is not null)
            {
                for (int i = 0; i < _bits.Length; i++)
                {
                    mask[i] |= _bits[i];
                }
            }

            foreach (int token in _tokens ?? [])
            {
                mask[token >> 6] |= 1UL << (token & 63);
            }
        }
    }
}
