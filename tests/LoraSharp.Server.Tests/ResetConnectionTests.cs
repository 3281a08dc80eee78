using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Server.Tests;

/// <summary>Clients whose machine is switched off in the middle of a request.</summary>
public sealed class ResetConnectionTests
{
    [Fact]
    public async Task A_connection_reset_within_the_body_is_logged_as_a_client_that_left()
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Fixtures.Path("models/llama"), Device = "cpu" });
        using InferenceEngine engine = loaded.CreateEngine(new EngineLimits());
        using var log = new CollectingLog();
        await using WebApplication app = LoraServer.Create(
            new ServedModel(engine, loaded.TokenizerOrNull, loaded.ChatTemplateOrNull, loaded.Generation), new ServerOptions { ModelName = "base" }, IPAddress.Loopback, 0, logging =>
            {
                // What LoraSharp says of it; Kestrel writes a line of its own about the rest of the body, which is not ours.
                logging.SetMinimumLevel(LogLevel.Information).ClearProviders().AddProvider(log).AddFilter((category, _) => category!.StartsWith("LoraSharp", StringComparison.Ordinal));
            });
        await app.StartAsync(TestContext.Current.CancellationToken);
        var address = new Uri(app.Urls.First());
        using var client = new HttpClient { BaseAddress = address };

        for (int i = 0; i < 5; i++)
        {
            using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { LingerState = new LingerOption(true, 0) };
            await socket.ConnectAsync(address.Host, address.Port, TestContext.Current.CancellationToken);
            await socket.SendAsync(Encoding.ASCII.GetBytes($"POST /v1/completions HTTP/1.1\r\nHost: {address.Authority}\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{{\"prompt\":[5,"), TestContext.Current.CancellationToken);

            // The request must have come before its connection goes; until then nobody could have left.
            while ((int?)JsonNode.Parse(await client.GetStringAsync("/admin/status", TestContext.Current.CancellationToken))!["requests_under_way"] == 0)
            {
                await Task.Delay(2, TestContext.Current.CancellationToken);
            }

            socket.Dispose();
            while (Ended() <= i)
            {
                await Task.Delay(5, TestContext.Current.CancellationToken);
            }
        }

        Assert.True(Ended() == 5, string.Join('\n', log.Entries));
        Assert.Equal([], log.Entries.Where(e => e.Level >= LogLevel.Error).Select(e => e.Text));

        // The server's own line of a request's end; 499 is what logs call a client that left.
        int Ended() => log.Entries.Count(e => e.Text.Contains("POST /v1/completions 499 key=", StringComparison.Ordinal));
    }

    private sealed class CollectingLog : ILoggerProvider, ILogger
    {
        public ConcurrentQueue<(LogLevel Level, string Text)> Entries { get; } = [];

        public ILogger CreateLogger(string categoryName) => this;

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter) => Entries.Enqueue((logLevel, $"{formatter(state, exception)} {exception}"));

        public void Dispose()
        {
        }
    }
}
