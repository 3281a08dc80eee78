using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat.ToolCalls;

namespace LoraSharp.Formats.Tests.Chat;

public class ToolCallTests
{
    [Theory]
    [InlineData("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", "", "f({\"a\": 1})")]
    [InlineData("Let me see.\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": {\"s\": \"} </tool_call> {\"}}</tool_call>", "Let me see.", "f({}) g({\"s\": \"} </tool_call> {\"})")]
    [InlineData("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}", "", "f({\"a\": 1})")]
    [InlineData("<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", "", "f({\"a\": 1})")]
    [InlineData("<tool_call>{\"name\": \"f\", \"parameters\": {\"a\": 1}}</tool_call> done", "done", "f({\"a\": 1})")]
    [InlineData("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}</tool_call>", null, "")]
    [InlineData("<tool_call>{\"arguments\": {}}</tool_call>", null, "")]
    [InlineData("<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>", null, "")]
    [InlineData("{\"name\": \"f\", \"arguments\": {}}", null, "")]
    [InlineData("", null, "")]
    public void Hermes(string text, string? content, string calls) => Check(ToolCallFormat.Hermes, text, content, calls);

    [Theory]
    [InlineData("{\"name\": \"f\", \"parameters\": {\"a\": \"x\"}}", "", "f({\"a\": \"x\"})")]
    [InlineData("<|python_tag|>{\"name\": \"f\", \"parameters\": {}}<|eom_id|>", "", "f({})")]
    [InlineData("{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"a\": [1]}}", "", "f({}) g({\"a\": [1]})")]
    [InlineData("<|python_tag|>brave_search.call(query=\"weather \\\"now\\\"\")", "", "brave_search({\"query\": \"weather \\\"now\\\"\"})")]
    [InlineData("{\"name\": \"Bob\", \"age\": 5}", null, "")]
    [InlineData("{\"name\": \"f\", \"parameters\": {}} is how you call it.", null, "")]
    [InlineData("Here: {\"name\": \"f\", \"parameters\": {}}", null, "")]
    [InlineData("<|python_tag|>import os", null, "")]
    public void Llama(string text, string? content, string calls) => Check(ToolCallFormat.Llama, text, content, calls);

    [Theory]
    [InlineData("[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"123456789\"}]</s>", "", "f({\"a\": 1})#123456789")]
    [InlineData("[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]", "", "f({}) g({})")]
    [InlineData("Sure.[TOOL_CALLS]f{\"a\": 1}[TOOL_CALLS]g[ARGS]{\"b\": 2}", "Sure.", "f({\"a\": 1}) g({\"b\": 2})")]
    [InlineData("[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{}", "", "f({})#abc123def")]
    [InlineData("[TOOL_CALLS] [{\"name\": \"f\"", null, "")]
    [InlineData("[TOOL_CALLS]", null, "")]
    public void Mistral(string text, string? content, string calls) => Check(ToolCallFormat.Mistral, text, content, calls);

    [Fact]
    public void Qwen_xml_takes_types_from_the_schema()
    {
        JsonArray tools = JsonNode.Parse("""[{"type": "function", "function": {"name": "f", "parameters": {"properties": {"zip": {"type": "string"}, "days": {"type": "integer"}}}}}]""")!.AsArray();
        AssistantText parsed = new ToolCallParser(ToolCallFormat.QwenXml, tools).Parse("ok\n<tool_call>\n<function=f>\n<parameter=zip>\n01234\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=note>\ntwo\nlines\n</parameter>\n</function>\n</tool_call>");
        Assert.Equal("ok", parsed.Content);
        Assert.Equal("""{"zip":"01234","days":3,"note":"two\nlines"}""", Assert.Single(parsed.Calls).Arguments);
    }

    [Fact]
    public void Without_a_format_nothing_is_a_call() => Check(ToolCallFormat.None, "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", null, "");

    [Theory]
    [InlineData("... <tool_call> ...", ToolCallFormat.Hermes)]
    [InlineData("... <tool_call> <function=x> ...", ToolCallFormat.QwenXml)]
    [InlineData("... [TOOL_CALLS] ...", ToolCallFormat.Mistral)]
    [InlineData("... <|python_tag|> ...", ToolCallFormat.Llama)]
    [InlineData("... <|im_start|> ...", ToolCallFormat.None)]
    public void The_template_tells_the_format(string template, ToolCallFormat format) => Assert.Equal(format, ToolCallParser.Detect(template));

    private static void Check(ToolCallFormat format, string text, string? content, string calls)
    {
        AssistantText parsed = new ToolCallParser(format).Parse(text);
        Assert.Equal(calls, string.Join(' ', parsed.Calls.Select(call => $"{call.Name}({call.Arguments}){(call.Id is null ? string.Empty : "#" + call.Id)}")));
        // What holds no call is given back as it is.
        Assert.Equal(content ?? text, parsed.Content);
    }
}
