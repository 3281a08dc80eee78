using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Serving;

namespace LoraSharp.Server.Tests;

/// <summary>Draining, a full queue, and what routing itself refuses.</summary>
public sealed class LifecycleTests
{
    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    [Fact]
    public async Task A_draining_server_ends_what_it_has_and_takes_nothing_new()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        using HttpResponseMessage running = await StreamAsync(server, 60);

        (_, JsonObject drained) = await server.PostAsync("/admin/drain", []);
        using HttpResponseMessage refused = await PostAsync(server, """{"prompt":"x","max_tokens":1}""");
        using HttpResponseMessage ready = await server.Client.GetAsync("/ready", Cancellation);
        using HttpResponseMessage alive = await server.Client.GetAsync("/health", Cancellation);
        string rest = await running.Content.ReadAsStringAsync(Cancellation);
        (_, JsonObject resumed) = await server.PostAsync("/admin/resume", []);
        using HttpResponseMessage again = await PostAsync(server, """{"prompt":"x","max_tokens":1}""");

        Assert.True((bool?)drained["draining"]);
        Assert.Equal((HttpStatusCode.ServiceUnavailable, HttpStatusCode.ServiceUnavailable, HttpStatusCode.OK), (refused.StatusCode, ready.StatusCode, alive.StatusCode));
        Assert.NotNull(refused.Headers.RetryAfter);
        Assert.EndsWith("data: [DONE]\n\n", rest);
        Assert.Contains("\"finish_reason\":\"length\"", rest);
        Assert.False((bool?)resumed["draining"]);
        Assert.Equal(HttpStatusCode.OK, again.StatusCode);
    }

    [Fact]
    public async Task A_full_queue_answers_503_and_when_to_come_again()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, limits: new EngineLimits { MaxBatch = 1, MaxWaiting = 2 });
        EngineGate gate = await EngineGate.CloseAsync(server.Engine, Cancellation);
        Task<HttpResponseMessage>[] sent = [.. Enumerable.Range(0, 12).Select(_ => PostAsync(server, """{"prompt":"The","max_tokens":4,"ignore_eos":true}"""))];
        HttpResponseMessage[] refused = new HttpResponseMessage[10];
        await foreach ((int i, Task<HttpResponseMessage> answer) in Task.WhenEach(sent).Index().WithCancellation(Cancellation))
        {
            refused[i] = await answer;
            if (i == refused.Length - 1)
            {
                break;
            }
        }

        await gate.DisposeAsync();
        HttpResponseMessage[] answers = await Task.WhenAll(sent);

        Assert.All(refused, a => Assert.Equal(HttpStatusCode.ServiceUnavailable, a.StatusCode));
        Assert.All(refused, a => Assert.NotNull(a.Headers.RetryAfter));
        Assert.Equal(2, answers.Count(a => a.StatusCode == HttpStatusCode.OK));
        Array.ForEach(answers, a => a.Dispose());
    }

    [Theory]
    [InlineData("GET", "/v1/nothing", HttpStatusCode.NotFound, "unknown_url")]
    [InlineData("GET", "/nothing", HttpStatusCode.NotFound, "unknown_url")]
    [InlineData("GET", "/v1/completions", HttpStatusCode.MethodNotAllowed, "method_not_supported")]
    [InlineData("DELETE", "/v1/models", HttpStatusCode.MethodNotAllowed, "method_not_supported")]
    public async Task What_routing_refuses_has_OpenAis_shape(string method, string path, HttpStatusCode status, string code)
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"));
        using var request = new HttpRequestMessage(new HttpMethod(method), path);
        request.Headers.Add("x-request-id", "mine-1");
        using HttpResponseMessage response = await server.Client.SendAsync(request, Cancellation);
        JsonNode error = JsonNode.Parse(await response.Content.ReadAsStringAsync(Cancellation))!["error"]!;

        Assert.Equal(status, response.StatusCode);
        Assert.Equal(code, (string?)error["code"]);
        Assert.Equal("mine-1", response.Headers.GetValues("x-request-id").Single());
    }

    [Fact]
    public async Task Operators_register_warm_and_pin_adapters()
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"), limits: new EngineLimits { MaxLoadedAdapters = 1 });
        foreach (string name in (string[])["a", "b"])
        {
            (HttpStatusCode status, JsonObject body) = await server.PostAsync("/admin/adapters/load", new JsonObject { ["name"] = name, ["path"] = Fixtures.Path("mixed_batch/" + name), ["lazy"] = true });
            Assert.Equal((HttpStatusCode.OK, "disk"), (status, (string?)body["place"]));
        }

        (_, JsonObject warm) = await server.PostAsync("/admin/adapters/warm-up", new JsonObject { ["names"] = new JsonArray("a") });
        (_, JsonObject pinned) = await server.PostAsync("/admin/adapters/pin", new JsonObject { ["name"] = "a" });
        (HttpStatusCode full, _) = await server.PostAsync("/v1/completions", new JsonObject { ["model"] = "b", ["prompt"] = new JsonArray(5), ["max_tokens"] = 1 });
        (_, JsonObject free) = await server.PostAsync("/admin/adapters/pin", new JsonObject { ["name"] = "a", ["pinned"] = false });
        (HttpStatusCode fits, _) = await server.PostAsync("/v1/completions", new JsonObject { ["model"] = "b", ["prompt"] = new JsonArray(5), ["max_tokens"] = 1 });
        JsonNode state = JsonNode.Parse(await server.Client.GetStringAsync("/admin/status", Cancellation))!;

        Assert.Equal("device", (string?)warm["adapters"]![0]!["place"]);
        Assert.True((bool?)pinned["pinned"]);
        Assert.Equal(HttpStatusCode.BadRequest, full);
        Assert.False((bool?)free["pinned"]);
        Assert.Equal(HttpStatusCode.OK, fits);
        Assert.Equal(["disk", "device"], state["adapters"]!.AsArray().Select(a => (string?)a!["place"] == "host" ? "disk" : (string?)a["place"]));
    }

    [Fact]
    public async Task A_bias_forbids_and_forces_tokens()
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"));
        async Task<string?> Ask(JsonObject? bias) => (string?)(await server.PostAsync("/v1/completions", new JsonObject
        {
            ["prompt"] = new JsonArray(5, 6),
            ["max_tokens"] = 1,
            ["temperature"] = 0,
            ["logprobs"] = 0,
            ["return_tokens_as_token_ids"] = true,
            ["logit_bias"] = bias,
        })).Body["choices"]![0]!["logprobs"]!["tokens"]![0];

        string? plain = await Ask(null);
        string? forced = await Ask(new JsonObject { ["77"] = 100 });
        string? forbidden = await Ask(new JsonObject { [plain!["token_id:".Length..]] = -100 });

        Assert.Equal("token_id:77", forced);
        Assert.NotEqual(plain, forbidden);
    }

    [Fact]
    public async Task Metrics_tell_requests_and_the_engine()
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"), new Dictionary<string, string> { ["a"] = Fixtures.Path("mixed_batch/a") });
        _ = await server.PostAsync("/v1/completions", new JsonObject { ["model"] = "a", ["prompt"] = new JsonArray(5, 6), ["max_tokens"] = 5, ["ignore_eos"] = true });
        _ = await server.PostAsync("/v1/completions", new JsonObject { ["model"] = "nobody", ["prompt"] = new JsonArray(5, 6) });

        string metrics = await server.Client.GetStringAsync("/metrics", Cancellation);

        foreach (string part in (string[])["lorasharp_requests_total{", "route=\"/v1/completions\"", "status=\"404\"", "lorasharp_request_duration_seconds_bucket", "lorasharp_tokens_per_second", "lorasharp_draining", "lorasharp_serving_time_to_first_token_seconds_bucket", "lorasharp_serving_inter_token_time_seconds_bucket", "lorasharp_serving_tokens_generated", "adapter=\"a\"", "lorasharp_serving_kv_use", "lorasharp_serving_requests_waiting", "lorasharp_serving_adapters", "place=\"device\""])
        {
            Assert.Contains(part, metrics);
        }
    }

    [Fact]
    public void A_label_has_only_so_many_values()
    {
        var names = new Telemetry.BoundedNames(2);

        Assert.Equal(["a", "b", "other", "a"], new[] { "a", "b", "c", "a" }.Select(names.Of));
    }

    private static Task<HttpResponseMessage> PostAsync(RunningServer server, string body) => server.Client.PostAsync("/v1/completions", new StringContent(body, Encoding.UTF8, "application/json"), Cancellation);

    private static async Task<HttpResponseMessage> StreamAsync(RunningServer server, int tokens)
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = new StringContent($$"""{"prompt":"The","max_tokens":{{tokens}},"ignore_eos":true,"stream":true}""", Encoding.UTF8, "application/json") };
        return await server.Client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, Cancellation);
    }
}
