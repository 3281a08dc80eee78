using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat;
using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Server.Tests;

/// <summary>Tools of a chat request: what is asked, what is answered, what is refused.</summary>
public sealed class ChatToolTests
{
    private const string Tools = """[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}]""";

    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    private static readonly string[] Said = ["I look", " it up.\n", "<tool_call>\n{\"name\": \"get_weather\", ", "\"arguments\": {\"city\": \"Köln\"}}\n</tool", "_call>", ""];

    [Fact]
    public void A_call_among_the_updates_becomes_a_tool_call()
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Model, Device = "cpu" });
        ToolPlan plan = Plan($$"""{"tools":{{Tools}}}""");
        var whole = new ChatChoice(loaded.Tokenizer, plan, wantsScores: false);
        var streamed = new ChatChoice(loaded.Tokenizer, plan, wantsScores: false);
        var deltas = new List<JsonObject>();
        for (int i = 0; i < Said.Length; i++)
        {
            var update = new TokenUpdate(5, Said[i], null, i == Said.Length - 1 ? FinishReason.Stop : null, null);
            whole.Add(update);
            if (streamed.Next(update, 0) is { } delta)
            {
                deltas.Add(delta);
            }
        }

        JsonObject choice = whole.ToJson(0);
        Assert.Equal("tool_calls", (string?)choice["finish_reason"]);
        Assert.Equal("I look it up.", (string?)choice["message"]!["content"]);
        JsonNode call = Assert.Single(choice["message"]!["tool_calls"]!.AsArray())!;
        Assert.Equal(("function", "get_weather", "{\"city\": \"Köln\"}"), ((string?)call["type"], (string?)call["function"]!["name"], (string?)call["function"]!["arguments"]));
        Assert.StartsWith("call_", (string?)call["id"]);

        Assert.Equal("assistant", (string?)deltas[0]["delta"]!["role"]);
        Assert.Equal("I look it up.", string.Concat(deltas.Select(d => (string?)d["delta"]!["content"])));
        JsonNode part = Assert.Single(deltas.SelectMany(d => d["delta"]!["tool_calls"]?.AsArray() ?? []))!;
        Assert.Equal(0, (int)part["index"]!);
        Assert.Equal("{\"city\": \"Köln\"}", (string?)part["function"]!["arguments"]);
        Assert.Equal("tool_calls", (string?)deltas[^1]["finish_reason"]);
        Assert.All(deltas.SkipLast(1), d => Assert.Null(d["finish_reason"]));
    }

    [Theory]
    [InlineData("""{"tools":[{"type":"function"}]}""", "tools[0]")]
    [InlineData("""{"tools":[{"type":"function","function":{"name":"a b"}}]}""", "letters, digits")]
    [InlineData("""{"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}]}""", "twice")]
    [InlineData("""{"tool_choice":"required"}""", "there are no tools")]
    [InlineData("""{"tool_choice":"sometimes"}""", "tool_choice")]
    [InlineData("""{"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"g"}}}""", "no function 'g'")]
    public void Tools_that_make_no_sense_are_refused(string body, string message)
    {
        ApiError error = Assert.Throws<ApiError>(() => Plan(body));
        Assert.Equal(400, error.Status);
        Assert.Contains(message, error.Message);
    }

    [Fact]
    public void A_choice_of_a_function_begins_the_call()
    {
        Assert.Equal("", Plan($$"""{"tools":{{Tools}}}""").Opening);
        Assert.Null(Plan($$"""{"tools":{{Tools}},"tool_choice":"none"}""").Tools);
        foreach (string choice in (string[])["\"required\"", """{"type":"function","function":{"name":"get_weather"}}"""])
        {
            Assert.Equal("<tool_call>\n{\"name\": \"get_weather\", \"arguments\":", Plan($$"""{"tools":{{Tools}},"tool_choice":{{choice}}}""").Opening);
        }
    }

    [Theory]
    [InlineData("""{"messages":[]}""", "at least one message")]
    [InlineData("""{"messages":"x"}""", "expected a list")]
    [InlineData("""{"messages":[{"role":"king","content":"x"}]}""", "messages[0].role is 'king'")]
    [InlineData("""{"messages":[{"role":"user"}]}""", "messages[0].content is missing")]
    [InlineData("""{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]}""", "reads no images")]
    [InlineData("""{"messages":[{"role":"user","content":7}]}""", "messages[0].content: expected a text")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"top_logprobs":2}""", "without logprobs")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"stream_options":{"include_usage":true}}""", "without stream")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"max_tokens":5,"max_completion_tokens":6}""", "both given and differ")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"temperature":0,"n":3}""", "all choices would be the same")]
    [InlineData("""{"messages":[{"role":"user","content":"x"}],"logit_bias":{"x":1}}""", "logit_bias")]
    public async Task Chats_that_make_no_sense_are_refused(string body, string message)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);

        using HttpResponseMessage response = await server.Client.PostAsync("/v1/chat/completions", new StringContent(body, Encoding.UTF8, "application/json"), TestContext.Current.CancellationToken);

        Assert.Equal(HttpStatusCode.BadRequest, response.StatusCode);
        Assert.Contains(message, (string?)JsonNode.Parse(await response.Content.ReadAsStringAsync(TestContext.Current.CancellationToken))!["error"]!["message"]);
    }

    [Fact]
    public async Task A_conversation_with_tools_goes_through_a_template_that_knows_none()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        const string Messages = """[{"role":"developer","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Weather?"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Bonn\"}"}}]},{"role":"tool","tool_call_id":"1","content":"rain"}]""";

        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/chat/completions", JsonNode.Parse($$"""{"messages":{{Messages}},"tools":{{Tools}},"max_tokens":5,"temperature":0}""")!.AsObject());

        Assert.Equal(HttpStatusCode.OK, status);
        Assert.True((int)body["usage"]!["prompt_tokens"]! > 100);
        Assert.Equal("assistant", (string?)body["choices"]![0]!["message"]!["role"]);
    }

    [Theory]
    [InlineData("\"required\"")]
    [InlineData("""{"type":"function","function":{"name":"get_weather"}}""")]
    public async Task A_required_call_is_made_by_any_model(string choice)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        const string Functions = """[{"type":"function","function":{"name":"get_weather","strict":true,"parameters":{"type":"object","properties":{"city":{"type":"string","maxLength":10},"days":{"type":"integer","minimum":1,"maximum":9}},"required":["city","days"],"additionalProperties":false}}},{"type":"function","function":{"name":"get_time","parameters":{"type":"object","properties":{"zone":{"enum":["CET","UTC"]}},"required":["zone"],"additionalProperties":false}}}]""";
        for (int seed = 0; seed < 4; seed++)
        {
            (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/chat/completions", JsonNode.Parse($$"""{"messages":[{"role":"user","content":"Weather?"}],"tools":{{Functions}},"tool_choice":{{choice}},"max_tokens":100,"temperature":1,"seed":{{seed}}}""")!.AsObject());

            Assert.Equal(HttpStatusCode.OK, status);
            JsonNode answer = body["choices"]![0]!;
            Assert.Equal("tool_calls", (string?)answer["finish_reason"]);
            JsonNode function = Assert.Single(answer["message"]!["tool_calls"]!.AsArray())!["function"]!;
            JsonNode arguments = JsonNode.Parse((string)function["arguments"]!)!;
            if ((string?)function["name"] == "get_weather")
            {
                Assert.InRange((int)arguments["days"]!, 1, 9);
                Assert.True(((string)arguments["city"]!).Length <= 20);
            }
            else
            {
                Assert.Contains("required", choice);
                Assert.Contains((string)arguments["zone"]!, (string[])["CET", "UTC"]);
            }
        }
    }

    private static ToolPlan Plan(string body) => ToolPlan.Read(RequestBody.Parse(Encoding.UTF8.GetBytes(body)), ChatTemplate.Parse("{{ messages }}", null, null));
}
