using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using CsCheck;
using Json.Schema;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Tests.Inference.Constraints;

/// <summary>Texts generated under a schema parse and validate, by a validator that nobody here wrote.</summary>
public sealed class JsonSchemaConstraintTests
{
    // Of what compiling may take before its budget ends it; a blow-up would be many times this.
    private const long MostAllocated = 4L << 30;

    public static TheoryData<string> Schemas =>
    [
        """{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"],"additionalProperties":false}""",
        """{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"boolean"},"c":{"type":"number"}},"required":["b"]}""",
        """{"type":"object","properties":{"a":{"const":1}},"additionalProperties":{"type":"boolean"}}""",
        """{"type":"object","properties":{"na":{"const":1},"name":{"const":2},"n\"\\\u00e9":{"const":3}},"required":["na"],"additionalProperties":true}""",
        """{"type":"object","required":["x","y"],"additionalProperties":{"type":"integer"}}""",
        """{"type":"object","required":["x"]}""",
        """{"type":"object","minProperties":2,"maxProperties":4,"additionalProperties":{"const":true}}""",
        """{"type":"object","patternProperties":{"^[a-c]{1,3}$":{"type":"integer"}},"additionalProperties":false}""",
        """{"type":"object","propertyNames":{"maxLength":3},"additionalProperties":{"type":"null"}}""",
        """{"type":"array","items":{"type":"integer","minimum":-12,"maximum":105},"minItems":2,"maxItems":5}""",
        """{"type":"array","prefixItems":[{"type":"string"},{"type":"boolean"}],"items":false,"minItems":1}""",
        """{"type":"array","prefixItems":[{"const":"a"}],"items":{"type":"integer"},"minItems":3,"maxItems":4}""",
        """{"type":"array","maxItems":0}""",
        """{"type":"array","items":{"type":"array","items":{"enum":["x",null,1.5,{"a":[1]}]}}}""",
        """{"type":"string","minLength":3,"maxLength":6}""",
        """{"type":"string","minLength":2}""",
        """{"type":"string","pattern":"^[A-Z]{2}-\\d+$"}""",
        """{"type":"string","pattern":"^b\"\\\\"}""",
        """{"type":"string","pattern":"[0-9]","minLength":2,"maxLength":4}""",
        """{"type":"string","pattern":"^a","allOf":[{"pattern":"z$"},{"maxLength":5}]}""",
        """{"type":"string","format":"date"}""",
        """{"type":"string","format":"time"}""",
        """{"type":"string","format":"date-time"}""",
        """{"type":"string","format":"duration"}""",
        """{"type":"string","format":"email"}""",
        """{"type":"string","format":"hostname"}""",
        """{"type":"string","format":"ipv4"}""",
        """{"type":"string","format":"ipv6"}""",
        """{"type":"string","format":"uuid"}""",
        """{"type":"string","format":"uri"}""",
        """{"type":"integer","multipleOf":7,"minimum":100,"maximum":1000}""",
        """{"type":"number","multipleOf":0.01,"minimum":0,"exclusiveMaximum":1}""",
        """{"type":"number","exclusiveMinimum":-1.25,"maximum":3.5}""",
        """{"type":"number","minimum":0.001,"maximum":0.0011}""",
        """{"type":"integer","exclusiveMinimum":-1,"exclusiveMaximum":1}""",
        """{"type":"number","maximum":-99.5}""",
        """{"type":["string","null","integer"],"maximum":5,"maxLength":2}""",
        """{"enum":["red","green",3,null,true,{"k":"v"}]}""",
        """{"type":"string","enum":["a","bb",1,"ccc"],"minLength":2}""",
        """{"const":"caf\u00e9 \"x\" \n"}""",
        """{"anyOf":[{"type":"string","maxLength":2},{"type":"object","properties":{"k":{"const":"v"}},"required":["k"],"additionalProperties":false}]}""",
        """{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"anyOf":[{"required":["a"]},{"required":["b"]}],"additionalProperties":false}""",
        """{"oneOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},"required":["kind","x"]},{"type":"object","properties":{"kind":{"const":"b"}},"required":["kind"]}]}""",
        """{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["value","next"],"additionalProperties":false}}}""",
        """{"type":"object","properties":{"children":{"type":"array","items":{"$ref":"#"}}},"required":["children"],"additionalProperties":false}""",
        """{"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"b":{"type":"string","maxLength":3}},"required":["b"]}]}""",
        """{"type":"object","properties":{"p":{"$ref":"#/$defs/q","description":"d"},"r":{"$ref":"#/$defs/q","minimum":5}},"required":["p","r"],"$defs":{"q":{"type":"integer","maximum":9}},"additionalProperties":false}""",
        """{"properties":{"f":{"type":"array","items":{"type":"number"},"maxItems":3}},"required":["f"],"type":"object","title":"T","description":"d","$schema":"https://json-schema.org/draft/2020-12/schema"}""",
        """{}""",
    ];

    [Theory]
    [MemberData(nameof(Schemas))]
    public void Generated_texts_validate(string schema) => Assert.True(Validate(schema, 30) >= 15, "too few texts came to an end");

    [Fact]
    public void Any_object_is_an_object_without_a_name_twice()
    {
        TokenConstraint constraint = RandomText.Compiler.JsonObject();
        for (int seed = 0; seed < 40; seed++)
        {
            if (RandomText.Of(constraint, seed) is { } text)
            {
                using JsonDocument parsed = JsonDocument.Parse(text, new JsonDocumentOptions { AllowDuplicateProperties = false });
                Assert.Equal(JsonValueKind.Object, parsed.RootElement.ValueKind);
            }
        }
    }

    [Fact]
    public void Random_schemas_are_kept()
    {
        int complete = 0;
        Schema(3).Sample(schema => Interlocked.Add(ref complete, Validate(schema.ToJsonString(), 4)), iter: 250, threads: 1);
        Assert.True(complete > 500, $"{complete} texts ended");
    }

    [Theory]
    [InlineData("""{"type":"object","not":{}}""", "$: 'not' cannot be kept")]
    [InlineData("""{"type":"array","uniqueItems":true}""", "'uniqueItems' cannot be kept")]
    [InlineData("""{"type":"strin"}""", "'type' is 'strin'")]
    [InlineData("""{"properties":{"a":{"type":"string","pattern":"(?=x)"}}}""", "$.properties.a.pattern: The regular expression")]
    [InlineData("""{"$ref":"#"}""", "circle")]
    [InlineData("""{"$ref":"#/$defs/x"}""", "nothing in the schema under this name")]
    [InlineData("""{"$ref":"https://example.org/x"}""", "Only references inside the schema")]
    [InlineData("""{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}""", "stands for itself")]
    [InlineData("""{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}""", "No text satisfies")]
    [InlineData("""{"type":"object","properties":{"a":false},"required":["a"]}""", "No text satisfies")]
    [InlineData("""{"allOf":[{"type":"string"},{"type":"integer"}]}""", "No text satisfies")]
    [InlineData("""{"enum":[]}""", "No text satisfies")]
    [InlineData("""{"type":"integer","minimum":5,"maximum":4}""", "No text satisfies")]
    [InlineData("""{"type":"string","minLength":5,"maxLength":4}""", "minLength 5 is above maxLength 4")]
    [InlineData("""{"type":"array","minItems":-1}""", "whole number, 0 or more")]
    [InlineData("""{"properties":[]}""", "'properties': expected an object")]
    [InlineData("""{"oneOf":[{"type":"string"},{"type":"string","maxLength":3}]}""", "may both hold")]
    [InlineData("""[1]""", "expected a schema")]
    public void What_cannot_be_kept_is_refused_by_place(string schema, string message) =>
        Assert.Contains(message, Assert.Throws<ConstraintException>(() => RandomText.Compiler.Json(JsonNode.Parse(schema)!)).Message, StringComparison.Ordinal);

    [Fact]
    public void Schema_bombs_are_refused_soon()
    {
        // Ten levels of ten references each: 10^10 objects when written out; shared rules make them few.
        var doubling = new JsonObject { ["$ref"] = "#/$defs/a9", ["$defs"] = new JsonObject { ["a0"] = new JsonObject { ["type"] = "null" } } };
        for (int i = 1; i < 10; i++)
        {
            doubling["$defs"]![$"a{i}"] = new JsonObject { ["type"] = "array", ["items"] = new JsonObject { ["anyOf"] = new JsonArray([.. Enumerable.Range(0, 10).Select(k => new JsonObject { ["$ref"] = $"#/$defs/a{i - 1}", ["title"] = $"{k}" })]) } };
        }

        RandomText.Compiler.Json(doubling);
        var crossed = new JsonObject { ["allOf"] = new JsonArray([.. Enumerable.Range(0, 12).Select(i => new JsonObject { ["anyOf"] = new JsonArray([.. Enumerable.Range(0, 12).Select(k => new JsonObject { ["required"] = new JsonArray($"p{i}_{k}") })]) })]) };
        var wide = new JsonObject { ["type"] = "object", ["properties"] = new JsonObject(Enumerable.Range(0, 2000).Select(i => KeyValuePair.Create($"p{i}", (JsonNode?)new JsonObject { ["type"] = "string" }))) };
        var longTexts = new JsonObject { ["type"] = "string", ["pattern"] = "^(a|b)*a(a|b){18}$", ["minLength"] = 5000, ["maxLength"] = 90000 };
        foreach (JsonObject bomb in (JsonObject[])[crossed, wide, longTexts])
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            Assert.Throws<ConstraintException>(() => RandomText.Compiler.Json(bomb));
            Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, MostAllocated);
        }
    }

    [Fact]
    public void A_long_bound_costs_no_states()
    {
        TokenConstraint constraint = RandomText.Compiler.Json(JsonNode.Parse("""{"type":"array","maxItems":1000000,"items":{"type":"string","maxLength":1000000}}""")!);
        Assert.True(constraint.Grammar.Rules.Sum(r => r.Automaton.Count) < 200);
    }

    // How many of the texts came to an end; those that did are valid.
    private static int Validate(string schema, int texts)
    {
        TokenConstraint constraint = RandomText.Compiler.Json(JsonNode.Parse(schema)!);
        JsonSchema reference = JsonSchema.FromText(schema);
        int complete = 0;
        for (int seed = 0; seed < texts; seed++)
        {
            if (RandomText.Of(constraint, seed) is not { } text)
            {
                continue;
            }

            complete++;
            using JsonDocument parsed = JsonDocument.Parse(text, new JsonDocumentOptions { AllowDuplicateProperties = false });
            if (new StringInfo(text).LengthInTextElements != text.EnumerateRunes().Count())
            {
                // The validator counts a letter and its marks as one; the specification counts characters (section 6.3).
                continue;
            }

            EvaluationResults results = reference.Evaluate(parsed.RootElement, new EvaluationOptions { RequireFormatValidation = true, OutputFormat = OutputFormat.List });
            Assert.True(results.IsValid, $"{schema}\nseed {seed}: {text}\n{JsonSerializer.Serialize(results)}");
        }

        return complete;
    }

    private static Gen<JsonNode> Schema(int depth)
    {
        Gen<JsonNode> text = Gen.Select(Gen.Int[0, 4], Gen.Int[0, 6]).Select((least, more) => (JsonNode)new JsonObject { ["type"] = "string", ["minLength"] = least, ["maxLength"] = least + more });
        Gen<JsonNode> pattern = Gen.Int[0, 4].Select(i => new[] { "^[a-z]{1,4}$", "\\d", "^(x|yy)*$", "^[^\"]{2}$", "é|b" }[i]).Select(p => (JsonNode)new JsonObject { ["type"] = "string", ["pattern"] = p, ["maxLength"] = 8 });
        Gen<JsonNode> whole = Gen.Select(Gen.Int[-200, 200], Gen.Int[0, 2000], Gen.Int[1, 9]).Select((least, more, step) => (JsonNode)(step is > 1 && more > step
            ? new JsonObject { ["type"] = "integer", ["minimum"] = least, ["maximum"] = least + more, ["multipleOf"] = step }
            : new JsonObject { ["type"] = "integer", ["minimum"] = least, ["maximum"] = least + more }));
        Gen<JsonNode> number = Gen.Select(Gen.Int[-5000, 5000], Gen.Int[1, 3000]).Select((least, more) => (JsonNode)new JsonObject { ["type"] = "number", ["minimum"] = least / 100m, ["exclusiveMaximum"] = (least + more) / 100m });
        Gen<JsonNode> given = Gen.Int[0, 4].Select(i => new[] { """{"enum":["a","b c",null,0.5]}""", """{"const":{"k":[]}}""", """{"type":"boolean"}""", """{"type":"null"}""", """{"type":["null","boolean"]}""" }[i]).Select(t => JsonNode.Parse(t)!);
        Gen<JsonNode> leaf = Gen.OneOf(text, pattern, whole, number, given);
        if (depth == 0)
        {
            return leaf;
        }

        Gen<JsonNode> inner = Schema(depth - 1);
        Gen<JsonNode> array = Gen.Select(inner, Gen.Int[0, 2], Gen.Int[0, 3]).Select((items, least, more) => (JsonNode)new JsonObject { ["type"] = "array", ["items"] = items.DeepClone(), ["minItems"] = least, ["maxItems"] = least + more });
        Gen<JsonNode> members = Gen.Select(inner.Array[0, 4], Gen.Bool.Array[4], Gen.Int[0, 2]).Select((schemas, required, rest) =>
        {
            string[] names = ["a", "ab", "b\"", "long name é"];
            var schema = new JsonObject
            {
                ["type"] = "object",
                ["properties"] = new JsonObject(schemas.Select((s, i) => KeyValuePair.Create(names[i], (JsonNode?)s.DeepClone()))),
                ["required"] = new JsonArray([.. schemas.Select((_, i) => i).Where(i => required[i]).Select(i => (JsonNode)names[i])]),
            };
            if (rest > 0)
            {
                schema["additionalProperties"] = rest == 1 ? false : new JsonObject { ["type"] = "boolean" };
            }

            return (JsonNode)schema;
        });
        Gen<JsonNode> any = inner.Array[1, 3].Select(options => (JsonNode)new JsonObject { ["anyOf"] = new JsonArray([.. options.Select(o => (JsonNode?)o.DeepClone())]) });
        return Gen.OneOf(array, members, members, any, leaf);
    }
}
