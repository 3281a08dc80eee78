using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference.Constraints.Json;

namespace LoraSharp.Inference.Constraints;

/// <summary>
/// Makes <see cref="TokenConstraint"/>s for one tokenizer, and keeps the last ones, so that a form that comes again costs
/// nothing to compile and its masks are warm. Safe for concurrent use.
/// </summary>
/// <param name="tokenizer">The model's.</param>
/// <param name="endTokens">Ids that end a text; they are let through only where the text is complete.</param>
/// <param name="limits">What a constraint may cost; null: the defaults.</param>
public sealed class ConstraintCompiler(Tokenizer tokenizer, IReadOnlyList<int> endTokens, ConstraintLimits? limits = null)
{
    private readonly ConstraintLimits _limits = (limits ?? new ConstraintLimits()).Validate();
    private readonly Lazy<TokenVocabulary> _vocabulary = new(() => new TokenVocabulary(tokenizer));
    private readonly Lock _gate = new();
    private readonly LinkedList<(string Key, TokenConstraint Constraint)> _kept = new();

    /// <summary>A text that a regular expression matches from its beginning to its end.</summary>
    /// <param name="pattern">
    /// Sets, groups, alternatives, repetitions, anchors, <c>\p{...}</c>, <c>(?i)</c>; no looking around, no references.
    /// <c>\d</c>, <c>\w</c> and <c>\s</c> are ASCII; a dot is no line end.
    /// </param>
    /// <exception cref="ConstraintException">It is malformed, not regular, too large, or matches nothing.</exception>
    public TokenConstraint Regex(string pattern)
    {
        ArgumentNullException.ThrowIfNull(pattern);
        return Keep("regex:" + pattern, () =>
        {
            var budget = new CompileBudget(_limits);
            return Create(new Grammar([new GrammarRule(RegexAutomaton.Build(pattern, json: false, search: false, budget))], budget), isJson: false);
        });
    }

    /// <summary>One of some texts.</summary>
    /// <param name="texts">At least one.</param>
    /// <exception cref="ConstraintException">There are none, or too many.</exception>
    public TokenConstraint OneOf(IReadOnlyList<string> texts)
    {
        ArgumentNullException.ThrowIfNull(texts);
        return texts.Count == 0
            ? throw new ConstraintException("A choice of texts has no texts.")
            : Regex(string.Join('|', texts.Select(t => $"(?:{System.Text.RegularExpressions.Regex.Escape(t)})")));
    }

    /// <summary>Any JSON object.</summary>
    public TokenConstraint JsonObject() => Json(new JsonObject { ["type"] = "object" });

    /// <summary>A JSON text that satisfies a schema (draft 2020-12).</summary>
    /// <param name="schema">
    /// Objects, arrays, strings with patterns and formats, numbers with bounds, <c>enum</c>, <c>const</c>, <c>anyOf</c>, <c>allOf</c>,
    /// <c>oneOf</c> whose alternatives differ, <c>$ref</c> within the schema, recursive ones too. Properties come in the schema's order.
    /// </param>
    /// <exception cref="ConstraintException">It is malformed, too large, satisfied by nothing, or says what cannot be kept.</exception>
    public TokenConstraint Json(JsonNode schema)
    {
        ArgumentNullException.ThrowIfNull(schema);
        string text = schema.ToJsonString();
        return Keep("json:" + text, () => FromTemplate("", [(schema, "")], [], text.Length));
    }

    // One of some JSON texts, each with what stands before and behind it.
    private TokenConstraint FromTemplate(string before, IReadOnlyList<(JsonNode Schema, string Lead)> options, IReadOnlyList<int> prefix, int length, string behind = "")
    {
        if (length > _limits.MaxSourceLength)
        {
            throw new ConstraintException($"The JSON schema has {length} characters. At most {_limits.MaxSourceLength} are taken.");
        }

        var budget = new CompileBudget(_limits);
        var rules = new GrammarRules(budget);
        var nfa = new Nfa(budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        foreach ((JsonNode schema, string lead) in options)
        {
            int rule = new JsonSchemaRules(rules, schema).Build();
            int done = nfa.AddState();
            nfa.Call(nfa.Literal(start, Encoding.UTF8.GetBytes(before + lead)), done, rule);
            nfa.Epsilon(nfa.Literal(done, Encoding.UTF8.GetBytes(behind)), accept);
        }

        rules.Define(0, nfa, start, accept);
        return Create(rules.ToGrammar(), isJson: true, prefix);
    }

    private TokenConstraint Create(Grammar grammar, bool isJson, IReadOnlyList<int>? prefix = null) =>
        new(grammar, _vocabulary.Value, endTokens, isJson, _limits.MaxMasks) { Prefix = prefix ?? [] };

    private TokenConstraint Keep(string key, Func<TokenConstraint> make)
    {
        lock (_gate)
        {
            for (LinkedListNode<(string Key, TokenConstraint Constraint)>? node = _kept.First; node is not null; node = node.Next)
            {
                if (node.Value.Key == key)
                {
                    _kept.Remove(node);
                    _kept.AddFirst(node);
                    return node.Value.Constraint;
                }
            }
        }

        // Compiled outside the lock: a large one must not keep others waiting.
        TokenConstraint made = make();
        lock (_gate)
        {
            _kept.AddFirst((key, made));
            while (_kept.Count > _limits.MaxKept)
            {
                _kept.RemoveLast();
            }
        }

        return made;
    }
}
