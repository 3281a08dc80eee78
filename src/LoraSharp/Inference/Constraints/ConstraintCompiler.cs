using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat.ToolCalls;
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
        return Keep("json:" + text, () =>
        {
            CompileBudget budget = Budget(text.Length);
            var rules = new GrammarRules(budget);
            rules.DefineAsAny(0, [new JsonSchemaRules(rules, schema).Build()]);
            return Create(rules.ToGrammar(), isJson: true);
        });
    }

    /// <summary>One call of one of some functions, in the form in which the model writes calls.</summary>
    /// <param name="tools">The functions; their names are not checked here.</param>
    /// <param name="format">The model's form; <see cref="ToolCallFormat.None"/> is taken for <see cref="ToolCallFormat.Hermes"/>.</param>
    /// <param name="template">The model's chat template, which tells the two forms of Mistral apart.</param>
    /// <param name="opening">The call's beginning where it stands in the prompt already.</param>
    /// <exception cref="ConstraintException">There are no functions, or the schema of one cannot be used.</exception>
    public TokenConstraint ToolCall(IReadOnlyList<ToolForm> tools, ToolCallFormat format, string template = "", string opening = "") => CallForm(tools, format, template, opening, null);

    private TokenConstraint CallForm(IReadOnlyList<ToolForm> tools, ToolCallFormat format, string template, string opening, JsonNode? schema)
    {
        ArgumentNullException.ThrowIfNull(tools);
        ArgumentNullException.ThrowIfNull(template);
        ArgumentNullException.ThrowIfNull(opening);
        bool bare = format == ToolCallFormat.Mistral && template.Contains("[ARGS]", StringComparison.Ordinal);
        string text = string.Join("\n", tools.Select(t => $"{t.Name}:{t.Parameters?.ToJsonString()}")) + "\n" + schema?.ToJsonString();
        return Keep($"tool:{format}:{bare}:{opening}:{text}", () => Create(ToolCallGrammar.Build(tools, format, bare, opening, schema, Budget(text.Length)), isJson: format != ToolCallFormat.QwenXml, opening));
    }

    /// <summary>Either a call as <see cref="ToolCall"/> has it, or a JSON text that satisfies a schema.</summary>
    /// <param name="tools">The functions; their names are not checked here.</param>
    /// <param name="format">The model's form.</param>
    /// <param name="template">The model's chat template.</param>
    /// <param name="schema">Of the answer without a call.</param>
    /// <exception cref="ConstraintException">There are no functions, or a schema cannot be used.</exception>
    public TokenConstraint ToolCallOr(IReadOnlyList<ToolForm> tools, ToolCallFormat format, string template, JsonNode schema)
    {
        ArgumentNullException.ThrowIfNull(schema);
        return CallForm(tools, format, template, "", schema);
    }

    private CompileBudget Budget(int length) => length <= _limits.MaxSourceLength
        ? new CompileBudget(_limits)
        : throw new ConstraintException($"The JSON schema has {length} characters. At most {_limits.MaxSourceLength} are taken.");

    private TokenConstraint Create(Grammar grammar, bool isJson, string opening = "") =>
        new(grammar, _vocabulary.Value, endTokens, isJson, _limits.MaxMasks) { Opening = Encoding.UTF8.GetBytes(opening) };

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
