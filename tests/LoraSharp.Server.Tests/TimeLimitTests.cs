using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Serving;
using Microsoft.Extensions.Time.Testing;

namespace LoraSharp.Server.Tests;

/// <summary>
/// What a request's time limit covers, and what keeps a silent stream alive: with a clock and an engine that move only when
/// the test says so.
/// </summary>
public sealed class TimeLimitTests
{
    private const string Long = """{"prompt":"The","max_tokens":400,"ignore_eos":true}""";
    private const string LongStream = """{"prompt":"The","max_tokens":400,"ignore_eos":true,"stream":true}""";

    private static readonly ServerOptions Options = new() { ModelName = "base", RequestTimeout = TimeSpan.FromMinutes(5), StreamKeepAlive = TimeSpan.FromSeconds(10) };

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    [Fact]
    public async Task A_request_that_still_waits_at_its_limit_gets_504()
    {
        var clock = new FakeTimeProvider();
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options, clock: clock);
        await using EngineGate gate = await EngineGate.CloseAsync(server.Engine, Cancellation);
        Task<HttpResponseMessage> sent = SendAsync(server, Long);
        await UnderWayAsync(server, 1);

        clock.Advance(Options.RequestTimeout - TimeSpan.FromMilliseconds(1));
        Assert.False(sent.IsCompleted);
        clock.Advance(TimeSpan.FromMilliseconds(1));
        using HttpResponseMessage answer = await sent;

        Assert.Equal(HttpStatusCode.GatewayTimeout, answer.StatusCode);
        JsonNode error = JsonNode.Parse(await answer.Content.ReadAsStringAsync(Cancellation))!["error"]!;
        Assert.Equal(("timeout", "server_error"), ((string?)error["code"], (string?)error["type"]));
        Assert.Contains("300 s", (string?)error["message"]);
    }

    [Fact]
    public async Task A_stream_that_has_not_begun_at_its_limit_gets_504_too()
    {
        var clock = new FakeTimeProvider();
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options with { StreamKeepAlive = TimeSpan.Zero }, clock: clock);
        await using EngineGate gate = await EngineGate.CloseAsync(server.Engine, Cancellation);
        Task<HttpResponseMessage> sent = SendAsync(server, LongStream);
        await UnderWayAsync(server, 1);

        clock.Advance(Options.RequestTimeout);
        using HttpResponseMessage answer = await sent;

        Assert.Equal(HttpStatusCode.GatewayTimeout, answer.StatusCode);
    }

    [Fact]
    public async Task A_stream_that_has_begun_ends_with_an_event_that_says_so_and_its_place_is_free()
    {
        var clock = new FakeTimeProvider();
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options, clock: clock);
        await using EngineGate gate = await EngineGate.CloseAsync(server.Engine, Cancellation);
        Task<HttpResponseMessage> sent = SendAsync(server, LongStream);
        await UnderWayAsync(server, 1);
        await gate.StepUntilAsync(s => s.GeneratedTokens > 0, Cancellation);
        using HttpResponseMessage answer = await sent;
        using var lines = new StreamReader(await answer.Content.ReadAsStreamAsync(Cancellation));
        string? first = await lines.ReadLineAsync(Cancellation);

        clock.Advance(Options.RequestTimeout);
        string rest = await lines.ReadToEndAsync(Cancellation);
        await gate.StepUntilAsync(s => s is { Running: 0, Waiting: 0 }, Cancellation);

        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        Assert.Contains("\"choices\":[{", first);
        Assert.Contains("\"code\":\"timeout\"", rest);
        Assert.EndsWith("data: [DONE]\n\n", rest);
        Assert.InRange(server.Engine.Status.GeneratedTokens, 1, 399);
        Assert.Equal(0, server.Engine.Status.Blocks.Used);
    }

    [Fact]
    public async Task A_silent_stream_sends_comments_and_then_its_answer()
    {
        var clock = new FakeTimeProvider();
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options with { RequestTimeout = TimeSpan.FromDays(10) }, clock: clock);
        string expected = await Text(SendAsync(server, """{"prompt":"The","max_tokens":6,"temperature":0,"ignore_eos":true,"stream":true}"""));
        EngineGate gate = await EngineGate.CloseAsync(server.Engine, Cancellation);
        Task<HttpResponseMessage> sent = SendAsync(server, """{"prompt":"The","max_tokens":6,"temperature":0,"ignore_eos":true,"stream":true}""");
        await UnderWayAsync(server, 1);

        // The stream's timer is made a moment after the request is counted: time goes on until its first comment is there.
        while (!sent.IsCompleted)
        {
            clock.Advance(TimeSpan.FromSeconds(10));
            await Task.Delay(5, Cancellation);
        }

        using HttpResponseMessage answer = await sent;
        await gate.DisposeAsync();
        string body = await answer.Content.ReadAsStringAsync(Cancellation);

        Assert.StartsWith(": keep-alive\n\n", body);
        Assert.Equal("text/event-stream", answer.Content.Headers.ContentType!.MediaType);
        Assert.Equal(Joined(expected), Joined(body));
        Assert.EndsWith("data: [DONE]\n\n", body);

        // What all clients of such streams do: lines that begin with a colon are left out.
        static string Joined(string events) => string.Concat(events.Split('\n').Where(l => l.StartsWith("data: {", StringComparison.Ordinal)).Select(l => (string?)JsonNode.Parse(l[6..])!["choices"]![0]!["text"]));
    }

    [Fact]
    public async Task A_client_that_leaves_its_stream_frees_its_place_whether_it_ran_or_waited()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options with { RequestTimeout = TimeSpan.FromMinutes(10) }, limits: new EngineLimits { MaxBatch = 1 });
        await using EngineGate gate = await EngineGate.CloseAsync(server.Engine, Cancellation);
        using var leave = new CancellationTokenSource();
        Task<HttpResponseMessage>[] sent = [SendAsync(server, LongStream, leave.Token), SendAsync(server, LongStream, leave.Token)];
        await UnderWayAsync(server, 2);
        await gate.StepUntilAsync(s => s is { Running: 1, Waiting: 1 }, Cancellation);

        using HttpResponseMessage running = await await Task.WhenAny(sent);
        await leave.CancelAsync();
        running.Dispose();
        await UnderWayAsync(server, 0);
        await gate.StepUntilAsync(s => s is { Running: 0, Waiting: 0 }, Cancellation);

        Assert.InRange(server.Engine.Status.GeneratedTokens, 1, 399);
        Assert.Equal(0, server.Engine.Status.Blocks.Used);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Task.WhenAll(sent));
    }

    private static async Task<HttpResponseMessage> SendAsync(RunningServer server, string body, CancellationToken? cancellation = null)
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = new StringContent(body, Encoding.UTF8, "application/json") };
        return await server.Client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellation ?? Cancellation);
    }

    private static async Task<string> Text(Task<HttpResponseMessage> sent)
    {
        using HttpResponseMessage answer = await sent;
        return await answer.Content.ReadAsStringAsync(Cancellation);
    }

    // The limit runs from before a request is counted here.
    private static async Task UnderWayAsync(RunningServer server, int count)
    {
        while ((int?)JsonNode.Parse(await server.Client.GetStringAsync("/admin/status", Cancellation))!["requests_under_way"] != count)
        {
            await Task.Delay(2, Cancellation);
        }
    }
}
