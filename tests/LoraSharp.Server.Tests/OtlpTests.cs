using System.Collections.Concurrent;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Server.Tests;

/// <summary>What a collector gets by OTLP, asked for as the documentation says: by the standard variables.</summary>
[Collection(AloneCollection.Name)]
public sealed partial class OtlpTests
{
    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    [Fact]
    public async Task A_collector_gets_the_spans_metrics_and_logs_that_the_documentation_names()
    {
        using var folder = new TemporaryFolder();
        string adapter = RandomAdapter.Write(Model, Path.Combine(folder.Path, "twist"), rank: 4, seed: 3);
        await using Collector collector = await Collector.StartAsync(Cancellation);
        using (new Variables(new()
        {
            ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.Address,
            ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf",
            ["OTEL_SERVICE_NAME"] = "under-test",
        }))
        {
            // What is not sent yet is sent when the server ends.
            await using RunningServer server = await RunningServer.StartAsync(Model, new Dictionary<string, string> { ["twist"] = adapter });
            _ = await server.PostAsync("/v1/chat/completions", (JsonObject)JsonNode.Parse("""{"model":"twist","messages":[{"role":"user","content":"Hi"}],"max_tokens":5,"temperature":0.5,"top_p":0.9,"seed":7,"ignore_eos":true}""")!);
            _ = await server.PostAsync("/v1/completions", (JsonObject)JsonNode.Parse("""{"prompt":"The","max_tokens":4,"n":2,"ignore_eos":true,"stop":"zzzz"}""")!);
            _ = await server.PostAsync("/v1/embeddings", (JsonObject)JsonNode.Parse("""{"input":"The"}""")!);
            _ = await server.PostAsync("/v1/completions", (JsonObject)JsonNode.Parse("""{"model":"nobody","prompt":"The"}""")!);
            _ = await server.PostAsync("/admin/drain", []);
        }

        OtlpSpan[] spans = [.. collector.Traces.SelectMany(OtlpSpan.Read)];
        OtlpSpan chat = Assert.Single(spans, s => s.Name == "chat twist");
        Assert.Equal("under-test", chat.Service);
        Assert.Equal("chat", chat.Tags["gen_ai.operation.name"]);
        Assert.Equal("lorasharp", chat.Tags["gen_ai.provider.name"]);
        Assert.Equal("twist", chat.Tags["gen_ai.request.model"]);
        Assert.Equal("twist", chat.Tags["gen_ai.response.model"]);
        Assert.Equal(5L, chat.Tags["gen_ai.usage.output_tokens"]);
        Assert.InRange((long)chat.Tags["gen_ai.usage.input_tokens"]!, 3, 60);
        Assert.Equal((5L, 0.5, 0.9, 7L), (chat.Tags["gen_ai.request.max_tokens"], chat.Tags["gen_ai.request.temperature"], chat.Tags["gen_ai.request.top_p"], chat.Tags["gen_ai.request.seed"]));
        Assert.Equal(["length"], (object?[])chat.Tags["gen_ai.response.finish_reasons"]!);
        Assert.StartsWith("req_", (string)chat.Tags["gen_ai.response.id"]!);

        // Each below the web server's span of its request.
        OtlpSpan request = Assert.Single(spans, s => s.Id == chat.Parent);
        Assert.Equal(("POST /v1/chat/completions", chat.Trace), (request.Name, request.Trace));
        Assert.Equal(2, spans.Count(s => s.Name == "text_completion base"));
        Assert.Single(spans, s => s.Name == "embeddings base");

        Dictionary<string, OtlpMetric> metrics = collector.Metrics.SelectMany(OtlpMetric.Read).GroupBy(m => m.Name).ToDictionary(g => g.Key, g => g.Last());
        string[] documented = [.. DottedName().Matches(await File.ReadAllTextAsync(Path.Combine(Fixtures.Root(), "docs", "serving.md"), Cancellation)).Select(m => m.Groups[1].Value).Distinct()];
        Assert.InRange(documented.Length, 10, 100);
        Assert.All(documented, name => Assert.True(metrics.ContainsKey(name) || spans.Any(s => s.Tags.ContainsKey(name)), $"{name} is in docs/serving.md and was not sent. Sent: {string.Join(", ", metrics.Keys)}"));
        foreach (string name in (string[])["gen_ai.server.request.duration", "gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"])
        {
            Assert.Equal("s", metrics[name].Unit);
            Assert.All(metrics[name].Points, p => Assert.True(p.ContainsKey("gen_ai.operation.name") && p.ContainsKey("gen_ai.provider.name") && p.ContainsKey("gen_ai.request.model")));
            Assert.Contains(metrics[name].Points, p => (string?)p["gen_ai.operation.name"] == "chat" && (string?)p["gen_ai.request.model"] == "twist");
        }

        Assert.NotEmpty(collector.Logs);
    }

    [GeneratedRegex(@"`((?:gen_ai|lorasharp)\.[a-z_.]+)`")]
    private static partial Regex DottedName();

    /// <summary>A collector that keeps what it gets.</summary>
    private sealed class Collector(WebApplication app) : IAsyncDisposable
    {
        public ConcurrentQueue<byte[]> Traces { get; } = [];

        public ConcurrentQueue<byte[]> Metrics { get; } = [];

        public ConcurrentQueue<byte[]> Logs { get; } = [];

        public string Address => app.Urls.First();

        public static async Task<Collector> StartAsync(CancellationToken cancellation)
        {
            WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
            builder.Logging.ClearProviders();
            WebApplication app = builder.Build();
            app.Urls.Add("http://127.0.0.1:0");
            var collector = new Collector(app);
            app.MapPost("/v1/traces", c => KeepAsync(c, collector.Traces));
            app.MapPost("/v1/metrics", c => KeepAsync(c, collector.Metrics));
            app.MapPost("/v1/logs", c => KeepAsync(c, collector.Logs));
            await app.StartAsync(cancellation);
            return collector;
        }

        public ValueTask DisposeAsync() => app.DisposeAsync();

        private static async Task KeepAsync(HttpContext context, ConcurrentQueue<byte[]> kept)
        {
            Assert.Equal("application/x-protobuf", context.Request.ContentType);
            using var body = new MemoryStream();
            await context.Request.Body.CopyToAsync(body, context.RequestAborted);
            kept.Enqueue(body.ToArray());

            // An empty message: everything was taken.
            context.Response.ContentType = "application/x-protobuf";
        }
    }

    /// <summary>Variables of the process, put back at the end; nothing runs beside this test.</summary>
    private sealed class Variables : IDisposable
    {
        private readonly Dictionary<string, string?> _before;

        public Variables(Dictionary<string, string> values)
        {
            _before = values.Keys.ToDictionary(k => k, Environment.GetEnvironmentVariable);
            foreach ((string name, string value) in values)
            {
                Environment.SetEnvironmentVariable(name, value);
            }
        }

        public void Dispose()
        {
            foreach ((string name, string? value) in _before)
            {
                Environment.SetEnvironmentVariable(name, value);
            }
        }
    }
}
