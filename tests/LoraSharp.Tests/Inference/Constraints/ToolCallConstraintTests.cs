using System.Text.Json;
using System.Text.Json.Nodes;
using Json.Schema;
using LoraSharp.Formats.Chat.ToolCalls;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Tests.Inference.Constraints;

/// <summary>A text under a tool call's constraint is read as exactly one call of an offered function with valid arguments, in every form.</summary>
public sealed class ToolCallConstraintTests
{
    private const string Weather = """{"type":"object","properties":{"city":{"type":"string","maxLength":8},"days":{"type":"integer","minimum":1,"maximum":14},"unit":{"type":"string","enum":["C","F"]}},"required":["city","days"],"additionalProperties":false}""";

    private static readonly ToolForm[] Tools = [new("weather", JsonNode.Parse(Weather)), new("now", null), new("we", JsonNode.Parse("""{"type":"object","properties":{"p":{"$ref":"#/$defs/q"}},"required":["p"],"$defs":{"q":{"type":["boolean","null"]}}}"""))];

    public static TheoryData<ToolCallFormat, string, string> Forms => new()
    {
        { ToolCallFormat.Hermes, "", "" },
        { ToolCallFormat.Hermes, "", "<tool_call>\n{\"name\": \"" },
        { ToolCallFormat.Hermes, "", "<tool_call>\n{\"name\": \"weather\", \"arguments\":" },
        { ToolCallFormat.QwenXml, "", "" },
        { ToolCallFormat.QwenXml, "", "<tool_call>\n<function=weather>\n" },
        { ToolCallFormat.Llama, "", "" },
        { ToolCallFormat.Llama, "", "{\"name\": \"" },
        { ToolCallFormat.Mistral, "", "[TOOL_CALLS]" },
        { ToolCallFormat.Mistral, "{{ '[ARGS]' }}", "[TOOL_CALLS]" },
    };

    [Theory]
    [MemberData(nameof(Forms))]
    public void The_text_is_one_call(ToolCallFormat format, string template, string opening)
    {
        TokenConstraint constraint = RandomText.Compiler.ToolCall(Tools, format, template, opening);
        var tools = new JsonArray([.. Tools.Select(t => (JsonNode)new JsonObject { ["type"] = "function", ["function"] = new JsonObject { ["name"] = t.Name, ["parameters"] = t.Parameters?.DeepClone() } })]);
        var parser = new ToolCallParser(format, tools);
        var called = new HashSet<string>();
        for (int seed = 0; seed < 40; seed++)
        {
            if (RandomText.Of(constraint, seed) is not { } text)
            {
                continue;
            }

            AssistantText said = parser.Parse(opening + text);
            ToolCall call = Assert.Single(said.Calls);
            Assert.Equal("", said.Content);
            called.Add(call.Name);
            ToolForm tool = Assert.Single(Tools, t => t.Name == call.Name);
            using JsonDocument arguments = JsonDocument.Parse(call.Arguments, new JsonDocumentOptions { AllowDuplicateProperties = false });
            Assert.True(JsonSchema.FromText(tool.Parameters?.ToJsonString() ?? """{"type":"object","maxProperties":0}""").Evaluate(arguments.RootElement).IsValid, text);
        }

        Assert.True(called.Count == (opening.Contains("weather", StringComparison.Ordinal) ? 1 : 3), string.Join(", ", called));
    }

    [Fact]
    public void An_opening_of_no_function_is_refused() =>
        Assert.Contains("None of the 3 functions", Assert.Throws<ConstraintException>(() => RandomText.Compiler.ToolCall(Tools, ToolCallFormat.Hermes, "", "<tool_call>\n{\"name\": \"nope\"")).Message, StringComparison.Ordinal);
}
