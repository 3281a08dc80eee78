using System.ClientModel;
using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using OpenAI;
using OpenAI.Chat;

namespace LoraSharp.Server.Tests;

/// <summary>Answers held to a form, over HTTP, by a real model.</summary>
public sealed class ResponseFormTests
{
    private const string Person = """{"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer","minimum":0,"maximum":130},"likes":{"type":"array","items":{"enum":["tea","coffee"]},"maxItems":2}},"required":["name","age","likes"],"additionalProperties":false}""";

    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    [Fact]
    public async Task OpenAis_client_gets_json_by_a_schema_with_and_without_a_stream()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        var client = new ChatClient("base", new ApiKeyCredential("none"), new OpenAIClientOptions { Endpoint = new Uri(server.Client.BaseAddress!, "v1") });
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 120, ResponseFormat = ChatResponseFormat.CreateJsonSchemaFormat("person", BinaryData.FromString(Person), jsonSchemaIsStrict: true) };

        ChatCompletion whole = await client.CompleteChatAsync([new UserChatMessage("Who are you?")], options, TestContext.Current.CancellationToken);
        var streamed = new System.Text.StringBuilder();
        await foreach (StreamingChatCompletionUpdate update in client.CompleteChatStreamingAsync([new UserChatMessage("Who are you?")], options, TestContext.Current.CancellationToken))
        {
            streamed.AppendJoin("", update.ContentUpdate.Select(p => p.Text));
        }

        Assert.Equal(ChatFinishReason.Stop, whole.FinishReason);
        Assert.Equal(whole.Content[0].Text, streamed.ToString());
        using JsonDocument person = JsonDocument.Parse(whole.Content[0].Text);
        Assert.Equal(["name", "age", "likes"], person.RootElement.EnumerateObject().Select(p => p.Name));
        Assert.InRange(person.RootElement.GetProperty("age").GetInt32(), 0, 130);
    }

    [Theory]
    [InlineData("""{"guided_regex":"[A-Z][a-z]{2,6}, [0-9]{2}"}""", "^[A-Z][a-z]{2,6}, [0-9]{2}$")]
    [InlineData("""{"guided_choice":["yes","no"]}""", "^(yes|no)$")]
    [InlineData("""{"structured_outputs":{"choice":["left","right"]}}""", "^(left|right)$")]
    [InlineData("""{"structured_outputs":{"regex":"\\d{4}"}}""", "^[0-9]{4}$")]
    [InlineData("""{"structured_outputs":{"json":{"type":"boolean"}}}""", "^(true|false)$")]
    [InlineData("""{"guided_json":{"type":"integer","minimum":10,"maximum":99}}""", "^[1-9][0-9]$")]
    [InlineData("""{"guided_json":"{\"enum\":[1,2]}"}""", "^[12]$")]
    [InlineData("""{"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","properties":{"a":{"type":"boolean"}},"required":["a"],"additionalProperties":false}}}}""", "^\\{\\s*\"a\": ?(true|false)\\s*\\}$")]
    public async Task Both_routes_take_the_fields_of_both_worlds(string fields, string pattern)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        foreach ((string route, string prompt) in new[] { ("/v1/completions", "\"prompt\":\"The answer is \""), ("/v1/chat/completions", "\"messages\":[{\"role\":\"user\",\"content\":\"Answer.\"}]") })
        {
            var body = (JsonObject)JsonNode.Parse($"{{{prompt},\"max_tokens\":60,\"temperature\":1,\"seed\":3,{fields[1..]}")!;
            (HttpStatusCode status, JsonObject answer) = await server.PostAsync(route, body);
            Assert.True(status == HttpStatusCode.OK, answer.ToJsonString());
            JsonNode choice = answer["choices"]![0]!;
            Assert.Equal("stop", (string?)choice["finish_reason"]);
            Assert.Matches(new Regex(pattern), (string?)choice["text"] ?? (string?)choice["message"]!["content"]);
        }
    }

    [Fact]
    public async Task A_form_is_one_requests_own()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        async Task<string> Ask(string? regex) => (string)(await server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = "Once upon a time", ["max_tokens"] = 10, ["temperature"] = 0, ["guided_regex"] = regex })).Body["choices"]![0]!["text"]!;

        string alone = await Ask(null);
        string[] together = await Task.WhenAll(Ask("[0-9]{5}"), Ask(null), Ask("[xyz]{4}"), Ask(null));

        Assert.Matches("^[0-9]{5}$", together[0]);
        Assert.Matches("^[xyz]{4}$", together[2]);
        Assert.Equal(alone, together[1]);
        Assert.Equal(alone, together[3]);
    }

    [Theory]
    [InlineData("""{"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"array","uniqueItems":true}}}}""", "uniqueItems")]
    [InlineData("""{"response_format":{"type":"json_schema","json_schema":{"name":"n"}}}""", "expected a JSON schema, found null")]
    [InlineData("""{"response_format":{"type":"xml"}}""", "expected text, json_object or json_schema")]
    [InlineData("""{"guided_regex":"(a+)+\\1"}""", "reference to a group")]
    [InlineData("""{"guided_regex":"[ab]*a[ab]{60}"}""", "too")]
    [InlineData("""{"guided_regex":"a","guided_json":{}}""", "both ask for a form")]
    [InlineData("""{"guided_grammar":"root ::= x"}""", "not supported")]
    [InlineData("""{"guided_json":"{"}""", "not valid JSON")]
    [InlineData("""{"structured_outputs":{"json":{},"regex":"a"}}""", "expected one of")]
    public async Task Faulty_forms_are_refused_and_the_server_goes_on(string fields, string message)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/completions", (JsonObject)JsonNode.Parse($"{{\"prompt\":\"x\",{fields[1..]}")!);

        Assert.Equal(HttpStatusCode.BadRequest, status);
        Assert.Contains(message, (string?)body["error"]!["message"], StringComparison.Ordinal);
        (status, _) = await server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = "x", ["max_tokens"] = 1 });
        Assert.Equal(HttpStatusCode.OK, status);
    }
}
