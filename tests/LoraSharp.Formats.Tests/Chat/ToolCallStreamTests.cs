using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Chat.ToolCalls;

namespace LoraSharp.Formats.Tests.Chat;

/// <summary>Calls found in pieces of text are those found in the whole.</summary>
public class ToolCallStreamTests
{
    public static TheoryData<ToolCallFormat, string> Texts => new()
    {
        { ToolCallFormat.Hermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>" },
        { ToolCallFormat.Hermes, "Let me see.\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": {\"s\": \"} </tool_call> {\"}}</tool_call>" },
        { ToolCallFormat.Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}" },
        { ToolCallFormat.Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> done <" },
        { ToolCallFormat.Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}</tool_call>" },
        { ToolCallFormat.Hermes, "a < b, <tool_cal> and <tool" },
        { ToolCallFormat.Hermes, "  two lines\n\n" },
        { ToolCallFormat.QwenXml, "ok\n<tool_call>\n<function=f>\n<parameter=zip>\n01234\n</parameter>\n</function>\n</tool_call>" },
        { ToolCallFormat.Llama, "{\"name\": \"f\", \"parameters\": {\"a\": \"x\"}}" },
        { ToolCallFormat.Llama, "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"a\": [1]}}" },
        { ToolCallFormat.Llama, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}<|eom_id|>" },
        { ToolCallFormat.Llama, "{\"name\": \"Bob\", \"age\": 5}" },
        { ToolCallFormat.Llama, "Here: {\"name\": \"f\", \"parameters\": {}}" },
        { ToolCallFormat.Mistral, "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"123456789\"}]</s>" },
        { ToolCallFormat.Mistral, "Sure.[TOOL_CALLS]f{\"a\": 1}[TOOL_CALLS]g[ARGS]{\"b\": 2}" },
        { ToolCallFormat.Mistral, "[TOOL_CALLS]" },
        { ToolCallFormat.None, "<tool_call>{}</tool_call>" },
    };

    [Theory]
    [MemberData(nameof(Texts))]
    public void Pieces_give_what_the_whole_gives(ToolCallFormat format, string text)
    {
        AssistantText whole = new ToolCallParser(format).Parse(text);
        for (int seed = 0; seed < 40; seed++)
        {
            var random = new Random(seed);
            var stream = new ToolCallStream(format);
            string content = "";
            var calls = new List<ToolCall>();
            for (int at = 0; at < text.Length;)
            {
                int length = Math.Min(text.Length - at, seed == 0 ? 1 : random.Next(1, 12));
                Take(stream.Add(text.Substring(at, length)));
                at += length;
            }

            Take(stream.End());

            Assert.Equal(whole.Calls, calls);
            Assert.Equal(whole.Content.Trim(), content.Trim());
            Assert.True(calls.Count > 0 || content == text, content);

            void Take(AssistantText piece)
            {
                content += piece.Content;
                calls.AddRange(piece.Calls);
            }
        }
    }

    [Fact]
    public void Content_does_not_wait_for_the_end_and_calls_come_when_they_are_whole()
    {
        var stream = new ToolCallStream(ToolCallFormat.Hermes);

        Assert.Equal("I look", stream.Add("I look ").Content);
        Assert.Equal(" it up.", stream.Add("it up.\n<tool").Content);
        Assert.Equal("", stream.Add("_call>{\"name\": \"f\", \"argu").Content);
        AssistantText call = stream.Add("ments\": {}}</tool_call>");
        Assert.Equal("f", Assert.Single(call.Calls).Name);
        Assert.Equal("", call.Content);
    }

    [Theory]
    [InlineData(ToolCallFormat.Hermes, "", " {\"a\": 1}}\n</tool_call>")]
    [InlineData(ToolCallFormat.QwenXml, "", "<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>")]
    [InlineData(ToolCallFormat.Llama, "", " {\"a\": 1}}")]
    [InlineData(ToolCallFormat.Mistral, "", " {\"a\": 1}}]")]
    [InlineData(ToolCallFormat.Mistral, "[ARGS]", "{\"a\": 1}")]
    public void An_opening_and_what_a_model_writes_behind_it_are_a_call(ToolCallFormat format, string template, string rest)
    {
        AssistantText said = new ToolCallParser(format).Parse(ToolCallOpening.For(format, template, "get_weather") + rest);

        ToolCall call = Assert.Single(said.Calls);
        Assert.Equal("get_weather", call.Name);
        Assert.Equal(1, (int)JsonNode.Parse(call.Arguments)!["a"]!);
    }

    [Fact]
    public void A_template_without_tools_gets_them_in_plain_messages()
    {
        JsonArray messages = JsonNode.Parse(
            """
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"},
             {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "w", "arguments": {"city": "Köln"}}}]},
             {"role": "tool", "tool_call_id": "1", "content": "rain"}]
            """)!.AsArray();
        JsonArray tools = JsonNode.Parse("""[{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}]""")!.AsArray();

        JsonArray plain = ToolPreamble.Apply(messages, tools);
        JsonArray without = ToolPreamble.Apply(messages, null);

        Assert.Equal(["system", "user", "assistant", "user"], plain.Select(m => (string)m!["role"]!));
        Assert.StartsWith("Be brief.\n\n", (string?)plain[0]!["content"]);
        Assert.Contains("{\"name\":\"w\",\"parameters\":{\"type\":\"object\"}}", (string?)plain[0]!["content"]);
        Assert.Equal("<tool_call>\n{\"name\":\"w\",\"arguments\":{\"city\":\"Köln\"}}\n</tool_call>", (string?)plain[2]!["content"]);
        Assert.Equal("<tool_response>\nrain\n</tool_response>", (string?)plain[3]!["content"]);
        Assert.Equal("Be brief.", (string?)without[0]!["content"]);
        Assert.Single(new ToolCallParser(ToolCallFormat.Hermes).Parse((string)plain[2]!["content"]!).Calls);
    }

    [Theory]
    [InlineData("{{ tools }}", true)]
    [InlineData("{{ messages }}", false)]
    public void A_template_knows_tools_when_it_speaks_of_them(string source, bool knows) => Assert.Equal(knows, ChatTemplate.Parse(source, null, null).KnowsTools);
}
