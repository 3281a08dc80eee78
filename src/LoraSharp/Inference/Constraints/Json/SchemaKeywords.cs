using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Inference.Constraints.Json;

/// <summary>Reads a schema's keywords with errors that say where they stand.</summary>
internal static class SchemaKeywords
{
    /// <summary>Types in the order in which they are tried.</summary>
    public static readonly string[] Types = ["object", "array", "string", "number", "integer", "boolean", "null"];

    // What would change which texts are valid and is not turned into an automaton: to pass over it would break the promise.
    private static readonly string[] Refused =
    [
        "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies", "contains", "minContains", "maxContains",
        "unevaluatedProperties", "unevaluatedItems", "additionalItems", "$dynamicRef", "$recursiveRef",
    ];

    private static readonly string[] Asserting =
    [
        "type", "enum", "const", "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties",
        "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "pattern", "format", "minLength", "maxLength",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "$ref", "allOf", "anyOf", "oneOf",
    ];

    /// <summary>Whether the keyword decides which values are valid.</summary>
    public static bool IsAsserting(string keyword) => Array.IndexOf(Asserting, keyword) >= 0;

    /// <summary>Refuses what cannot be kept.</summary>
    public static void Check(JsonObject schema, string path)
    {
        if (schema.Select(p => p.Key).FirstOrDefault(k => Array.IndexOf(Refused, k) >= 0) is { } keyword)
        {
            throw Fault(path, $"'{keyword}' cannot be kept while a text is generated. Express it with enum, const, anyOf or bounds");
        }

        if (schema["uniqueItems"]?.GetValueKind() == JsonValueKind.True)
        {
            throw Fault(path, "'uniqueItems' cannot be kept while a text is generated. Leave it out and check the items afterwards");
        }
    }

    /// <summary>The keyword's members.</summary>
    public static JsonObject? Members(JsonObject schema, string keyword, string path) => schema[keyword] switch
    {
        null => null,
        JsonObject members => members,
        JsonNode other => throw Wrong(path, keyword, "an object", other),
    };

    /// <summary>The keyword's list.</summary>
    public static JsonArray? List(JsonObject schema, string keyword, string path) => schema[keyword] switch
    {
        null => null,
        JsonArray list => list,
        JsonNode other => throw Wrong(path, keyword, "a list", other),
    };

    /// <summary>Strings: one, or a list.</summary>
    public static IReadOnlyList<string> Texts(JsonObject schema, string keyword, string path) => schema[keyword] switch
    {
        null => [],
        JsonArray list => [.. list.Select(n => n?.GetValueKind() == JsonValueKind.String ? n.GetValue<string>() : throw Wrong(path, keyword, "strings", n))],
        JsonNode one => one.GetValueKind() == JsonValueKind.String ? [one.GetValue<string>()] : throw Wrong(path, keyword, "a string", one),
    };

    /// <summary>A count, 0 or more.</summary>
    public static int? Count(JsonObject schema, string keyword, string path)
    {
        if (Number(schema, keyword, path) is not { } number)
        {
            return null;
        }

        return number >= 0 && number == Math.Floor(number) ? (int)Math.Min(number, int.MaxValue) : throw Wrong(path, keyword, "a whole number, 0 or more", schema[keyword]);
    }

    /// <summary>A number; beyond what a decimal holds it is as good as its largest.</summary>
    public static decimal? Number(JsonObject schema, string keyword, string path)
    {
        if (schema[keyword] is not { } node)
        {
            return null;
        }

        if (node.GetValueKind() != JsonValueKind.Number)
        {
            throw Wrong(path, keyword, "a number", node);
        }

        return ToDecimal(node);
    }

    /// <summary>A JSON number as a decimal; beyond what a decimal holds it is as good as its largest.</summary>
    public static decimal ToDecimal(JsonNode number)
    {
        string text = number.ToJsonString();
        return decimal.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out decimal exact) ? exact : text.StartsWith('-') ? decimal.MinValue : decimal.MaxValue;
    }

    /// <summary>The types that a schema lets through; without <c>type</c> those that its other keywords speak of, or all.</summary>
    public static IReadOnlyList<string> TypesOf(JsonObject schema, string path)
    {
        IReadOnlyList<string> named = Texts(schema, "type", path);
        if (named.FirstOrDefault(t => Array.IndexOf(Types, t) < 0) is { } unknown)
        {
            throw Fault(path, $"'type' is '{unknown}'. Expected one of {string.Join(", ", Types)}");
        }

        if (schema.ContainsKey("type"))
        {
            // Every integer is a number.
            return [.. named.Where(t => t != "integer" || !named.Contains("number")).Distinct()];
        }

        List<string> spoken = [];
        AddIf("object", "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties");
        AddIf("array", "items", "prefixItems", "minItems", "maxItems");
        AddIf("string", "pattern", "format", "minLength", "maxLength");
        AddIf("number", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf");
        return spoken.Count > 0 ? spoken : [.. Types.Where(t => t != "integer")];

        void AddIf(string type, params string[] keywords)
        {
            if (keywords.Any(schema.ContainsKey))
            {
                spoken.Add(type);
            }
        }
    }

    /// <summary>Bounds of a number.</summary>
    public static NumberBounds Bounds(JsonObject schema, string path)
    {
        decimal? least = Number(schema, "minimum", path), above = Number(schema, "exclusiveMinimum", path);
        decimal? most = Number(schema, "maximum", path), below = Number(schema, "exclusiveMaximum", path);
        bool leastOut = above is not null && (least is null || above >= least);
        bool mostOut = below is not null && (most is null || below <= most);
        return new NumberBounds(leastOut ? above : least, leastOut, mostOut ? below : most, mostOut);
    }

    /// <summary>An error with its place.</summary>
    public static ConstraintException Fault(string path, string what) => new($"The JSON schema cannot be used: {path}: {what}.");

    /// <summary>An error about a keyword's value.</summary>
    public static ConstraintException Wrong(string path, string keyword, string expected, JsonNode? found)
    {
        string text = found?.ToJsonString() ?? "null";
        return Fault(path, $"'{keyword}': expected {expected}, found {(text.Length > 80 ? text[..80] + "…" : text)}");
    }
}
