using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Inference.Constraints.Json;

/// <summary>One schema that says what two say together (<c>allOf</c>, keywords beside <c>$ref</c> and <c>anyOf</c>).</summary>
internal static class SchemaConjunction
{
    /// <summary>Both at once.</summary>
    /// <exception cref="ConstraintException">They use keywords that cannot be put together.</exception>
    public static JsonObject Of(JsonObject a, JsonObject b, string path)
    {
        var both = new JsonObject();
        foreach ((string key, JsonNode? value) in a)
        {
            both[key] = value?.DeepClone();
        }

        foreach ((string key, JsonNode? value) in b)
        {
            if (!SchemaKeywords.IsAsserting(key) || key is "properties" or "additionalProperties" or "patternProperties")
            {
                continue;
            }

            both[key] = both.ContainsKey(key) ? Join(key, both[key]!, value!, a, b, path) : value?.DeepClone();
        }

        JoinProperties(both, a, b, path);
        return both;
    }

    private static JsonNode Join(string key, JsonNode x, JsonNode y, JsonObject a, JsonObject b, string path)
    {
        if (JsonNode.DeepEquals(x, y))
        {
            return x.DeepClone();
        }

        switch (key)
        {
            case "type":
                return JoinTypes(a, b, path);
            case "required":
                return new JsonArray([.. SchemaKeywords.Texts(a, key, path).Union(SchemaKeywords.Texts(b, key, path)).Select(t => (JsonNode)t)]);
            case "minimum" or "exclusiveMinimum" or "minLength" or "minItems" or "minProperties":
                return (SchemaKeywords.Number(a, key, path) >= SchemaKeywords.Number(b, key, path) ? x : y).DeepClone();
            case "maximum" or "exclusiveMaximum" or "maxLength" or "maxItems" or "maxProperties":
                return (SchemaKeywords.Number(a, key, path) <= SchemaKeywords.Number(b, key, path) ? x : y).DeepClone();
            case "pattern" or "format":
                return new JsonArray([.. SchemaKeywords.Texts(a, key, path).Union(SchemaKeywords.Texts(b, key, path)).Select(t => (JsonNode)t)]);
            case "enum" when x is JsonArray xs && y is JsonArray ys:
                return new JsonArray([.. xs.Where(v => ys.Any(w => JsonNode.DeepEquals(v, w))).Select(v => v?.DeepClone())]);
            case "items" or "propertyNames":
                return All(x, y);
            case "allOf" when x is JsonArray xs && y is JsonArray ys:
                return new JsonArray([.. xs.Concat(ys).Select(v => v?.DeepClone())]);
            case "anyOf" or "oneOf" when x is JsonArray xs && y is JsonArray ys && xs.Count * ys.Count <= 256:
                return new JsonArray([.. xs.SelectMany(v => ys.Select(w => All(v, w)))]);
            case "uniqueItems":
                return true;
            default:
                throw SchemaKeywords.Fault(path, $"two values of '{key}' hold at once, {Short(x)} and {Short(y)}, which cannot be put together");
        }
    }

    private static JsonArray JoinTypes(JsonObject a, JsonObject b, string path)
    {
        IReadOnlyList<string> x = SchemaKeywords.TypesOf(a, path), y = SchemaKeywords.TypesOf(b, path);
        IEnumerable<string> both = x.Where(t => y.Contains(t) || (t == "integer" && y.Contains("number"))).Concat(y.Where(t => t == "integer" && x.Contains("number")));
        return new JsonArray([.. both.Distinct().Select(t => (JsonNode)t)]);
    }

    // A property that one of the two names must satisfy the other's rule for the rest too.
    private static void JoinProperties(JsonObject both, JsonObject a, JsonObject b, string path)
    {
        JsonObject? x = SchemaKeywords.Members(a, "properties", path), y = SchemaKeywords.Members(b, "properties", path);
        JsonNode? restX = a["additionalProperties"], restY = b["additionalProperties"];
        if (b.ContainsKey("patternProperties") && (a.ContainsKey("patternProperties") || x is not null || restX is not null))
        {
            throw SchemaKeywords.Fault(path, "'patternProperties' cannot be put together with another schema");
        }

        if (b["patternProperties"] is { } patterns)
        {
            both["patternProperties"] = patterns.DeepClone();
        }

        if (x is not null || y is not null)
        {
            var properties = new JsonObject();
            foreach (string name in (x?.Select(p => p.Key) ?? []).Union(y?.Select(p => p.Key) ?? []))
            {
                JsonNode? own = Of(x, restX, name), other = Of(y, restY, name);
                properties[name] = own is null ? other?.DeepClone() ?? true : other is null || JsonNode.DeepEquals(own, other) ? own.DeepClone() : All(own, other);
            }

            both["properties"] = properties;
        }

        if (restX is not null || restY is not null)
        {
            both["additionalProperties"] = restX is null || restY is null ? (restX ?? restY)!.DeepClone() : All(restX, restY);
        }

        static JsonNode? Of(JsonObject? named, JsonNode? rest, string name) => named?.ContainsKey(name) == true ? named[name] : rest;
    }

    private static JsonNode All(JsonNode? x, JsonNode? y)
    {
        if (x?.GetValueKind() == JsonValueKind.False || y?.GetValueKind() == JsonValueKind.False)
        {
            return false;
        }

        return x?.GetValueKind() == JsonValueKind.True ? y!.DeepClone() : y?.GetValueKind() == JsonValueKind.True ? x!.DeepClone() : new JsonObject { ["allOf"] = new JsonArray(x?.DeepClone(), y?.DeepClone()) };
    }

    private static string Short(JsonNode node)
    {
        string text = node.ToJsonString();
        return text.Length > 40 ? text[..40] + "…" : text;
    }
}
