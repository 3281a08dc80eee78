using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Inference.Constraints.Json;

/// <content>Objects and arrays.</content>
internal sealed partial class JsonSchemaRules
{
    private void DefineObject(int rule, JsonObject schema, string path)
    {
        JsonObject properties = SchemaKeywords.Members(schema, "properties", path) ?? [];
        IReadOnlyList<string> required = SchemaKeywords.Texts(schema, "required", path);
        JsonNode? rest = Rest(schema, schema.ContainsKey("properties"), path, out JsonNode? names);
        List<(string Name, JsonNode? Schema, bool IsRequired)> named = [.. properties.Select(p => (p.Key, p.Value, required.Contains(p.Key)))];

        // A required property that is not described is one of the rest, or of any kind where the schema says nothing.
        JsonNode? others = schema.ContainsKey("additionalProperties") ? rest : true;
        named.AddRange(names is null ? required.Distinct().Where(r => !properties.ContainsKey(r)).Select(r => ((string, JsonNode?, bool))(r, others ?? false, true)) : []);
        if (named.Count > MostProperties)
        {
            throw SchemaKeywords.Fault(path, $"it has {named.Count} properties; at most {MostProperties} are taken");
        }

        if (named.Find(p => p.Name.Length > LongestName).Name is { } longName)
        {
            throw SchemaKeywords.Fault(path, $"the name of a property has {longName.Length} characters; at most {LongestName} are taken");
        }

        int n = named.Count;
        (int least, int most) = PropertyBounds(schema, n, named.Count(p => p.IsRequired), rest is not null, path);
        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();

        // first[i], later[i]: before the name of property i or of one behind it; done[i]: behind the value of property i - 1.
        int[] first = [.. Enumerable.Range(0, n + 1).Select(_ => nfa.AddState())];
        int[] later = [.. first.Select(_ => nfa.AddState())];
        int[] done = [.. first.Select(_ => nfa.AddState())];
        int open = AddSpace(nfa, nfa.Literal(start, "{"u8), lines: true);
        nfa.Epsilon(open, first[0]);
        if (least == 0 && !named.Exists(p => p.IsRequired))
        {
            nfa.Bytes(open, accept, (byte)'}', (byte)'}');
        }

        for (int i = 0; i < n; i++)
        {
            (string name, JsonNode? value, bool isRequired) = named[i];
            int colon = nfa.Literal(later[i], Encoding.UTF8.GetBytes($"\"{JsonText.Escape(name)}\":"));
            nfa.Call(AddSpace(nfa, colon, lines: false), done[i + 1], Rule(value, $"{path}.properties.{name}"));
            nfa.Epsilon(first[i], later[i]);
            if (!isRequired)
            {
                nfa.Epsilon(first[i], first[i + 1]);
                nfa.Epsilon(later[i], later[i + 1]);
            }
        }

        if (rest is not null)
        {
            int key = names is not null ? Rule(names, path + ".propertyNames") : DefineOtherName([.. named.Select(p => p.Name)]);
            int colon = nfa.AddState();
            nfa.Call(later[n], colon, key);
            nfa.Call(first[n], colon, key, CountAction.Increment);
            nfa.Call(AddSpace(nfa, nfa.Literal(colon, ":"u8), lines: false), done[n], Rule(rest, path + ".additionalProperties"));
        }

        int lastRequired = named.FindLastIndex(p => p.IsRequired);
        for (int i = 0; i <= n; i++)
        {
            // A comma promises one more; where none can follow it is pruned.
            nfa.Epsilon(AddSpace(nfa, Byte(nfa, done[i], ',', CountAction.Increment), lines: true), later[i]);
            if (i > lastRequired)
            {
                nfa.Bytes(AddSpace(nfa, done[i], lines: true, CountAction.Close), accept, (byte)'}', (byte)'}', CountAction.Close);
            }
        }

        _rules.Define(rule, nfa, start, accept, isContainer: true, least, most);
    }

    // What properties that are not named may hold, null for none; and what their names must be like, null for any others.
    private static JsonNode? Rest(JsonObject schema, bool hasProperties, string path, out JsonNode? names)
    {
        names = null;
        if (SchemaKeywords.Members(schema, "patternProperties", path) is { Count: > 0 } patterns)
        {
            if (patterns.Count > 1 || hasProperties || schema["additionalProperties"] is { } more && more.GetValueKind() != JsonValueKind.False)
            {
                throw SchemaKeywords.Fault(path, "'patternProperties' can be kept only with one pattern, without 'properties', and with additionalProperties false");
            }

            names = new JsonObject { ["type"] = "string", ["pattern"] = patterns.First().Key };
            return patterns.First().Value ?? true;
        }

        JsonNode? rest = schema["additionalProperties"] ?? (hasProperties ? (JsonNode)false : true);
        rest = rest.GetValueKind() == JsonValueKind.False ? null : rest;
        if (schema["propertyNames"] is { } form && rest is not null)
        {
            names = hasProperties
                ? throw SchemaKeywords.Fault(path, "'propertyNames' beside 'properties' and additionalProperties cannot be kept")
                : new JsonObject { ["allOf"] = new JsonArray(new JsonObject { ["type"] = "string" }, form.DeepClone()) };
        }

        return rest;
    }

    private static (int Least, int Most) PropertyBounds(JsonObject schema, int named, int required, bool isOpen, string path)
    {
        int least = SchemaKeywords.Count(schema, "minProperties", path) ?? 0;
        int most = SchemaKeywords.Count(schema, "maxProperties", path) ?? int.MaxValue;
        if (least > most)
        {
            throw SchemaKeywords.Fault(path, $"minProperties {least} is above maxProperties {most}");
        }

        return named == 0 ? (least, most)
            : least <= required && (most == int.MaxValue || (!isOpen && most >= named)) ? (0, int.MaxValue)
            : throw SchemaKeywords.Fault(path, "'minProperties' and 'maxProperties' beside 'properties' cannot be kept while a text is generated. Say which are required");
    }

    // A name in its one shortest form that is none of these.
    private int DefineOtherName(IReadOnlyList<string> taken)
    {
        string key = "name:" + JsonSerializer.Serialize(taken);
        if (_known.TryGetValue(key, out int rule))
        {
            return rule;
        }

        rule = _rules.Declare();
        _known.Add(key, rule);
        var nfa = new Nfa(Budget);
        var writer = new CharacterWriter(json: true);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        int free = nfa.AddState();
        writer.Add(nfa, free, free, CharacterClass.Any);
        nfa.Bytes(free, accept, (byte)'"', (byte)'"');
        AddNames(nfa.Literal(start, "\""u8), [.. taken.Select(t => t.EnumerateRunes().Select(r => r.Value).ToArray())], 0);
        _rules.Define(rule, nfa, start, accept);
        return rule;

        // As long as the name begins like some of the taken ones, all of which agree up to here.
        void AddNames(int at, List<int[]> names, int length)
        {
            Budget.Spend(names.Count);
            if (!names.Exists(n => n.Length == length))
            {
                nfa.Bytes(at, accept, (byte)'"', (byte)'"');
            }

            IGrouping<int, int[]>[] next = [.. names.Where(n => n.Length > length).GroupBy(n => n[length])];
            writer.Add(nfa, at, free, CodePointSet.Of(next.Select(g => (g.Key, g.Key))).Complement());
            foreach (IGrouping<int, int[]> group in next)
            {
                int to = nfa.AddState();
                writer.Add(nfa, at, to, CodePointSet.Single(group.Key));
                AddNames(to, [.. group], length + 1);
            }
        }
    }

    private void DefineArray(int rule, JsonObject schema, string path)
    {
        IReadOnlyList<JsonNode?> prefix = SchemaKeywords.List(schema, "prefixItems", path) is { } tuple ? [.. tuple] : [];
        int least = SchemaKeywords.Count(schema, "minItems", path) ?? 0;
        int most = SchemaKeywords.Count(schema, "maxItems", path) ?? int.MaxValue;
        if (least > most)
        {
            throw SchemaKeywords.Fault(path, $"minItems {least} is above maxItems {most}");
        }

        JsonNode? items = schema["items"] ?? (prefix.Count > 0 && least <= prefix.Count ? false : true);
        if (items is JsonArray)
        {
            throw SchemaKeywords.Fault(path, "'items' is a list, as in older drafts. Use prefixItems");
        }

        bool isOpen = items.GetValueKind() != JsonValueKind.False && most > prefix.Count;
        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        int open = AddSpace(nfa, nfa.Literal(start, "["u8), lines: true);
        if (least == 0)
        {
            nfa.Bytes(open, accept, (byte)']', (byte)']');
        }

        int done = nfa.AddState();
        int before = open;
        for (int i = 0; i < Math.Min(prefix.Count, most); i++)
        {
            done = nfa.AddState();
            nfa.Call(before, done, Rule(prefix[i], $"{path}.prefixItems[{i}]"));
            if (i + 1 >= least && i + 1 < prefix.Count)
            {
                nfa.Bytes(AddSpace(nfa, done, lines: true), accept, (byte)']', (byte)']');
            }

            before = i + 1 < prefix.Count ? AddSpace(nfa, Byte(nfa, done, ','), lines: true) : -1;
        }

        // Items behind the tuple are counted, the first one too.
        if (isOpen)
        {
            int item = Rule(items, path + ".items");
            if (prefix.Count == 0)
            {
                nfa.Call(open, done, item, CountAction.Increment);
            }

            nfa.Call(AddSpace(nfa, Byte(nfa, done, ',', CountAction.Increment), lines: true), done, item);
        }

        nfa.Bytes(AddSpace(nfa, done, lines: true, CountAction.Close), accept, (byte)']', (byte)']', CountAction.Close);
        _rules.Define(rule, nfa, start, accept, isContainer: true, Math.Max(0, least - prefix.Count), isOpen && most < int.MaxValue ? most - prefix.Count : int.MaxValue);
    }

    private static int Byte(Nfa nfa, int from, char value, CountAction action = CountAction.None)
    {
        int to = nfa.AddState();
        nfa.Bytes(from, to, (byte)value, (byte)value, action);
        return to;
    }
}
