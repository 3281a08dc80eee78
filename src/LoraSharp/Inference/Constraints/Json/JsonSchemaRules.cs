using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Inference.Constraints.Json;

/// <summary>
/// JSON Schema (draft 2020-12) as rules of a grammar. Properties come in the schema's order, those that are not required
/// may be left out, others follow. What no grammar keeps is refused; nothing is passed over that would let an invalid text
/// through.
/// </summary>
/// <remarks>
/// Where the specification leaves an object or tuple open by saying nothing (<c>additionalProperties</c> beside
/// <c>properties</c>, <c>items</c> beside <c>prefixItems</c>) it is closed here: such texts are valid too, and models do
/// better without an invitation to ramble.
/// </remarks>
internal sealed partial class JsonSchemaRules
{
    private const int MostIndent = 32;
    private const int MostProperties = 1000;
    private const int LongestName = 1000;
    private const int MostLinks = 64;

    private readonly GrammarRules _rules;
    private readonly JsonNode? _root;
    private readonly Dictionary<string, int> _known = new(StringComparer.Ordinal);
    private readonly Queue<(int Rule, JsonObject Schema, string Path)> _open = new();
    private int? _indent;

    /// <summary>Starts with a schema document, to which references lead.</summary>
    public JsonSchemaRules(GrammarRules rules, JsonNode? root)
    {
        _rules = rules;
        _root = root;
    }

    private CompileBudget Budget => _rules.Budget;

    /// <summary>The rule of the document's own schema.</summary>
    /// <exception cref="ConstraintException">The schema is malformed, not supported or too large.</exception>
    public int Build() => Build(_root);

    /// <summary>The rule of a schema that stands in the document.</summary>
    /// <exception cref="ConstraintException">The schema is malformed, not supported or too large.</exception>
    public int Build(JsonNode? schema)
    {
        int rule = Rule(schema, "$");
        while (_open.TryDequeue(out (int Rule, JsonObject Schema, string Path) next))
        {
            Define(next.Rule, next.Schema, next.Path);
        }

        return rule;
    }

    // The rule of a schema: equal schemas share one, and it is defined later, so that a schema can contain itself.
    private int Rule(JsonNode? node, string path)
    {
        for (int links = 0; node is JsonObject link && Reference(link) is { } target && link.All(p => p.Key == "$ref" || !SchemaKeywords.IsAsserting(p.Key)); links++)
        {
            SchemaKeywords.Check(link, path);
            node = links < MostLinks ? Resolve(target, path) : throw SchemaKeywords.Fault(path, $"'$ref' leads in a circle to '{target}'");
        }

        JsonObject schema = node switch
        {
            JsonObject members => members,
            JsonValue when node.GetValueKind() == JsonValueKind.True => [],
            JsonValue when node.GetValueKind() == JsonValueKind.False => new JsonObject { ["enum"] = new JsonArray() },
            _ => throw SchemaKeywords.Fault(path, $"expected a schema (an object, true or false), found {node?.ToJsonString() ?? "null"}"),
        };
        string key = schema.ToJsonString();
        Budget.Spend(1 + (key.Length / 16));
        if (!_known.TryGetValue(key, out int rule))
        {
            rule = _rules.Declare();
            _known.Add(key, rule);
            _open.Enqueue((rule, schema, path));
        }

        return rule;
    }

    private void Define(int rule, JsonObject schema, string path)
    {
        schema = Flatten(schema, path);
        if ((schema["anyOf"] ?? schema["oneOf"]) is { } options)
        {
            DefineOptions(rule, schema, options, path);
        }
        else if (schema.ContainsKey("enum") || schema.ContainsKey("const"))
        {
            DefineLiterals(rule, schema, path);
        }
        else
        {
            IReadOnlyList<string> types = SchemaKeywords.TypesOf(schema, path);
            if (types is [string type])
            {
                DefineType(rule, type, schema, path);
            }
            else
            {
                _rules.DefineAsAny(rule, types.Select(t => Rule(With(schema, "type", t), path)));
            }
        }
    }

    // Without $ref and allOf: what they bring is put together with what stands beside them.
    private JsonObject Flatten(JsonObject schema, string path)
    {
        for (int links = 0; ; links++)
        {
            SchemaKeywords.Check(schema, path);
            Budget.Spend(100);
            if (links > MostLinks)
            {
                throw SchemaKeywords.Fault(path, "'$ref' and 'allOf' lead on and on");
            }

            if (Reference(schema) is { } target)
            {
                schema = SchemaConjunction.Of(Without(schema, "$ref"), AsObject(Resolve(target, path), path), path);
            }
            else if (SchemaKeywords.List(schema, "allOf", path) is { } parts)
            {
                schema = parts.Aggregate(Without(schema, "allOf"), (all, part) => SchemaConjunction.Of(all, AsObject(part, path), path));
            }
            else
            {
                return schema;
            }
        }
    }

    private void DefineOptions(int rule, JsonObject schema, JsonNode options, string path)
    {
        bool one = !schema.ContainsKey("anyOf");
        if (schema.ContainsKey("anyOf") && schema.ContainsKey("oneOf"))
        {
            throw SchemaKeywords.Fault(path, "'anyOf' and 'oneOf' at once cannot be put together");
        }

        string keyword = one ? "oneOf" : "anyOf";
        if (options is not JsonArray { Count: > 0 } list)
        {
            throw SchemaKeywords.Wrong(path, keyword, "a list of schemas", options);
        }

        if (one)
        {
            CheckDisjoint(list, path);
        }

        JsonObject beside = Without(schema, keyword);
        bool alone = !beside.Any(p => SchemaKeywords.IsAsserting(p.Key));
        _rules.DefineAsAny(rule, list.Select((option, i) => Rule(alone ? option : new JsonObject { ["allOf"] = new JsonArray(beside.DeepClone(), option?.DeepClone()) }, $"{path}.{keyword}[{i}]")));
    }

    // Exactly one: kept where no value can satisfy two, by type or by a required property's constant.
    private void CheckDisjoint(JsonArray options, string path)
    {
        JsonObject[] flat = [.. options.Select((o, i) => Flatten(AsObject(o, path), $"{path}.oneOf[{i}]"))];
        for (int i = 0; i < flat.Length; i++)
        {
            for (int k = i + 1; k < flat.Length; k++)
            {
                Budget.Spend(100);
                if (!Differ(flat[i], flat[k]))
                {
                    throw SchemaKeywords.Fault(path, $"'oneOf': the alternatives {i} and {k} may both hold, which cannot be kept apart while a text is generated. Use anyOf, or give each a required property with a const of its own");
                }
            }
        }

        bool Differ(JsonObject a, JsonObject b)
        {
            IReadOnlyList<string> x = SchemaKeywords.TypesOf(a, path), y = SchemaKeywords.TypesOf(b, path);
            bool typed = (a.ContainsKey("type") && b.ContainsKey("type")) || (Values(a) is not null && Values(b) is not null);
            if (typed && a.ContainsKey("type") && b.ContainsKey("type") && !x.Any(t => y.Contains(t) || (t == "integer" && y.Contains("number")) || (t == "number" && y.Contains("integer"))))
            {
                return true;
            }

            if (Values(a) is { } left && Values(b) is { } right)
            {
                return !left.Any(v => right.Any(w => JsonNode.DeepEquals(v, w)));
            }

            return x is ["object"] && y is ["object"] && SchemaKeywords.Texts(a, "required", path).Intersect(SchemaKeywords.Texts(b, "required", path)).Any(name =>
                Values(a["properties"]?[name]) is { } p && Values(b["properties"]?[name]) is { } q && !p.Any(v => q.Any(w => JsonNode.DeepEquals(v, w))));
        }

        static IReadOnlyList<JsonNode?>? Values(JsonNode? schema) => schema is not JsonObject members ? null
            : members.TryGetPropertyValue("const", out JsonNode? single) ? [single] : members["enum"] is JsonArray list ? [.. list] : null;
    }

    private void DefineType(int rule, string type, JsonObject schema, string path)
    {
        switch (type)
        {
            case "object":
                DefineObject(rule, schema, path);
                return;
            case "array":
                DefineArray(rule, schema, path);
                return;
            case "string":
                DefineString(rule, schema, path);
                return;
            case "integer" or "number":
                DefineNumber(rule, schema, type == "integer", path);
                return;
            case "boolean":
                DefineTexts(rule, ["true", "false"]);
                return;
            default:
                DefineTexts(rule, ["null"]);
                return;
        }
    }

    private void DefineTexts(int rule, IEnumerable<string> texts)
    {
        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        foreach (string text in texts)
        {
            nfa.Epsilon(nfa.Literal(start, Encoding.UTF8.GetBytes(text)), accept);
        }

        _rules.Define(rule, nfa, start, accept);
    }

    // One blank, or a new line with some indentation, or nothing: a model may write as it is used to, but not blanks for ever.
    private int AddSpace(Nfa nfa, int from, bool lines, CountAction action = CountAction.None)
    {
        int to = nfa.AddState();
        nfa.Epsilon(from, to);
        nfa.Bytes(from, to, (byte)' ', (byte)' ', action);
        if (lines)
        {
            nfa.Call(from, to, _indent ??= DefineIndent(), action);
        }

        return to;
    }

    private int DefineIndent()
    {
        int rule = _rules.Declare();
        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        int at = nfa.Literal(start, "\n"u8);
        nfa.Epsilon(at, accept);
        for (int i = 0; i < MostIndent; i++)
        {
            int next = nfa.Literal(at, " "u8);
            nfa.Bytes(at, next, (byte)'\t', (byte)'\t');
            nfa.Epsilon(next, accept);
            at = next;
        }

        _rules.Define(rule, nfa, start, accept);
        return rule;
    }

    private JsonNode? Resolve(string reference, string path)
    {
        if (reference.Length == 0 || reference[0] != '#')
        {
            throw SchemaKeywords.Fault(path, $"'$ref' is '{reference}'. Only references inside the schema are followed, such as #/$defs/name");
        }

        if (reference.Length > 1 && reference[1] != '/')
        {
            return Anchored(_root, reference[1..]) ?? throw Missing();
        }

        JsonNode? node = _root;
        foreach (string part in Uri.UnescapeDataString(reference).Split('/').Skip(1))
        {
            string name = part.Replace("~1", "/", StringComparison.Ordinal).Replace("~0", "~", StringComparison.Ordinal);
            node = node switch
            {
                JsonObject members when members.ContainsKey(name) => members[name],
                JsonArray list when int.TryParse(name, out int index) && index >= 0 && index < list.Count => list[index],
                _ => throw Missing(),
            };
        }

        return node;

        ConstraintException Missing() => SchemaKeywords.Fault(path, $"'$ref' is '{reference}', and there is nothing in the schema under this name");
    }

    private static JsonNode? Anchored(JsonNode? node, string anchor) => node switch
    {
        JsonObject members when members["$anchor"] is JsonValue name && name.GetValueKind() == JsonValueKind.String && name.GetValue<string>() == anchor => members,
        JsonObject members => members.Select(p => Anchored(p.Value, anchor)).FirstOrDefault(n => n is not null),
        JsonArray list => list.Select(n => Anchored(n, anchor)).FirstOrDefault(n => n is not null),
        _ => null,
    };

    private static string? Reference(JsonObject schema) => schema["$ref"] is JsonValue value && value.GetValueKind() == JsonValueKind.String ? value.GetValue<string>() : null;

    private static JsonObject AsObject(JsonNode? schema, string path) => schema switch
    {
        JsonObject members => members,
        JsonValue when schema.GetValueKind() == JsonValueKind.True => [],
        JsonValue when schema.GetValueKind() == JsonValueKind.False => new JsonObject { ["enum"] = new JsonArray() },
        _ => throw SchemaKeywords.Fault(path, $"expected a schema (an object, true or false), found {schema?.ToJsonString() ?? "null"}"),
    };

    private static JsonObject Without(JsonObject schema, string keyword)
    {
        var rest = (JsonObject)schema.DeepClone();
        rest.Remove(keyword);
        return rest;
    }

    private static JsonObject With(JsonObject schema, string keyword, string value)
    {
        var changed = (JsonObject)schema.DeepClone();
        changed[keyword] = value;
        return changed;
    }
}
