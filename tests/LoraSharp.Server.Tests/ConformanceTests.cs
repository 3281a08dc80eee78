using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Serving;

namespace LoraSharp.Server.Tests;

/// <summary>What users of OpenAI's clients send and expect, beyond the plain request.</summary>
public sealed class ConformanceTests
{
    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    [Fact]
    public async Task Several_choices_of_which_one_finds_no_place_end_at_once()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, limits: new EngineLimits { MaxBatch = 1, MaxWaiting = 4 });
        await using EngineGate gate = await EngineGate.CloseAsync(server.Engine, Cancellation);
        Task<(HttpStatusCode, JsonObject)> waiting = server.PostAsync("/v1/completions", (JsonObject)JsonNode.Parse("""{"prompt":"The","max_tokens":200,"n":2,"ignore_eos":true}""")!);
        await gate.StepUntilAsync(s => s is { Running: 1, Waiting: 1 }, Cancellation);

        // Three of four find a place in the queue; the engine stands still, so they would never be answered.
        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/completions", (JsonObject)JsonNode.Parse("""{"prompt":"The","max_tokens":400,"n":4,"ignore_eos":true}""")!);
        await gate.StepUntilAsync(s => s is { Running: 0, Waiting: 0 }, Cancellation);
        (HttpStatusCode first, JsonObject answer) = await waiting;

        Assert.Equal((HttpStatusCode.ServiceUnavailable, "overloaded"), (status, (string?)body["error"]!["code"]));
        Assert.Equal((HttpStatusCode.OK, 2), (first, answer["choices"]!.AsArray().Count));
        Assert.Equal(400, server.Engine.Status.GeneratedTokens);
    }

    [Theory]
    [InlineData("""{"n":5}""", "queue holds 4")]
    [InlineData("""{"n":129}""", "Expected 1 to 128")]
    [InlineData("""{"include_stop_str_in_output":true}""", "not supported")]
    [InlineData("""{"top_p":1.5}""", "Expected 0 to 1")]
    [InlineData("""{"logprobs":true}""", "expected a number")]
    [InlineData("""{"stop":""}""", "stop string is empty")]
    [InlineData("""{"stream":"yes"}""", "expected true or false")]
    [InlineData("""{"stream_options":{"include_usage":true}}""", "without stream")]
    [InlineData("""{"seed":"x"}""", "whole number")]
    [InlineData("""{"logit_bias":{"x":1}}""", "no token id")]
    public async Task What_cannot_be_done_is_told_by_field(string fields, string message)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, limits: new EngineLimits { MaxBatch = 1, MaxWaiting = 4 });

        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/completions", (JsonObject)JsonNode.Parse("{\"prompt\":\"x\"," + fields[1..])!);

        Assert.Equal(HttpStatusCode.BadRequest, status);
        Assert.Contains(message, (string?)body["error"]!["message"]);
    }

    [Theory]
    [InlineData("""{"top_p":0,"seed":1}""")]
    [InlineData("""{"user":"u","metadata":{"a":"b"},"store":false,"service_tier":"auto","modalities":["text"],"reasoning_effort":"low","parallel_tool_calls":true}""")]
    [InlineData("""{"stop":null,"logit_bias":null,"tools":null,"response_format":null,"seed":null,"stream":null,"stream_options":null,"n":null,"max_tokens":null,"top_logprobs":null}""")]
    [InlineData("""{"tools":[],"best_of":1,"functions":[],"temperature":2,"n":3,"seed":9223372036854775807}""")]
    public async Task What_clients_send_along_is_taken(string fields)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);

        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/chat/completions", (JsonObject)JsonNode.Parse("{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"Be short.\"}]},{\"role\":\"user\",\"content\":\"Grüße 👋🏽 \\u0000 \\ud83d\\ude00\"}],\"max_completion_tokens\":4," + fields[1..])!);

        Assert.True(status == HttpStatusCode.OK, body.ToJsonString());
        Assert.Equal("assistant", (string?)body["choices"]![0]!["message"]!["role"]);
    }

    [Theory]
    [InlineData("/chat/completions", "must end in /v1")]
    [InlineData("/v1/v1/chat/completions", "leave it out of its base URL")]
    public async Task A_wrong_base_address_is_told(string path, string message)
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"));

        (HttpStatusCode status, JsonObject body) = await server.PostAsync(path, []);

        Assert.Equal(HttpStatusCode.NotFound, status);
        Assert.Contains(message, (string?)body["error"]!["message"]);
    }

    [Fact]
    public async Task Adapters_that_come_and_go_under_a_hundred_connections_give_answers_or_404()
    {
        using var folder = new TemporaryFolder();
        string adapter = RandomAdapter.Write(Model, Path.Combine(folder.Path, "twist"), rank: 4, seed: 3);
        await using RunningServer server = await RunningServer.StartAsync(Model, new Dictionary<string, string> { ["one"] = adapter });
        using var stop = new CancellationTokenSource();
        Task changes = Task.Run(
            async () =>
            {
                while (!stop.IsCancellationRequested)
                {
                    _ = await server.Client.PostAsync("/v1/load_lora_adapter", Json(new JsonObject { ["lora_name"] = "two", ["lora_path"] = adapter }), Cancellation);
                    _ = await server.Client.PostAsync("/v1/unload_lora_adapter", Json(new JsonObject { ["lora_name"] = "two" }), Cancellation);
                }
            },
            Cancellation);

        (HttpStatusCode Status, JsonObject Body)[] answers = await Task.WhenAll(Enumerable.Range(0, 100).Select(i => server.PostAsync("/v1/completions", new JsonObject { ["model"] = (i % 3) switch { 0 => "base", 1 => "one", _ => "two" }, ["prompt"] = "The river", ["max_tokens"] = 6, ["temperature"] = 0, ["ignore_eos"] = true })));
        await stop.CancelAsync();
        await changes;

        string[] Texts(int which) => [.. answers.Where((a, i) => i % 3 == which && a.Status == HttpStatusCode.OK).Select(a => (string)a.Body["choices"]![0]!["text"]!).Distinct()];
        Assert.All(answers.Where((_, i) => i % 3 < 2), a => Assert.Equal(HttpStatusCode.OK, a.Status));
        Assert.All(answers, a => Assert.True(a.Status is HttpStatusCode.OK or HttpStatusCode.NotFound, $"{a.Status} {a.Body.ToJsonString()}"));
        Assert.Single(Texts(0));
        Assert.Single(Texts(1));
        Assert.NotEqual(Texts(0), Texts(1));
        Assert.Subset(Texts(1).ToHashSet(), Texts(2).ToHashSet());
    }

    private static StringContent Json(JsonObject body) => new(body.ToJsonString(), Encoding.UTF8, "application/json");
}
