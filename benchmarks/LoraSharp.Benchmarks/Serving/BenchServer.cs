using System.Net;
using LoraSharp.Adapters;
using LoraSharp.Server;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Builder;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>A server in this process on a free port of the loopback: what is measured is the whole way of a request, HTTP included.</summary>
internal sealed class BenchServer : IAsyncDisposable
{
    public const string BaseName = "base";

    private readonly WebApplication _app;

    private BenchServer(WebApplication app, InferenceEngine engine)
    {
        _app = app;
        Engine = engine;
        Address = new Uri(app.Urls.First());
    }

    public InferenceEngine Engine { get; }

    public Uri Address { get; }

    /// <summary>Starts a server over a loaded model, which stays the caller's.</summary>
    public static async Task<BenchServer> StartAsync(LoadedModel loaded, EngineLimits limits)
    {
        InferenceEngine engine = loaded.CreateEngine(limits);
        WebApplication app = LoraServer.Create(
            new ServedModel(engine, loaded.TokenizerOrNull, loaded.ChatTemplateOrNull, loaded.Generation), new ServerOptions { ModelName = BaseName, Playground = false }, IPAddress.Loopback, 0);
        await app.StartAsync().ConfigureAwait(false);
        return new BenchServer(app, engine);
    }

    /// <summary>Writes adapters with random factors as PEFT folders: their products are what real ones cost.</summary>
    /// <param name="loaded">Their base.</param>
    /// <param name="folder">Where each gets a folder of its name.</param>
    /// <param name="ranks">Rank of each adapter; they are called <c>adapter-000</c>, <c>adapter-001</c>, ...</param>
    /// <param name="seed">Of the factors.</param>
    public static IReadOnlyList<(string Name, string Path)> WriteAdapters(LoadedModel loaded, string folder, IReadOnlyList<int> ranks, long seed)
    {
        var written = new List<(string, string)>();
        for (int i = 0; i < ranks.Count; i++)
        {
            string name = $"adapter-{i:D3}";
            string path = Path.Combine(folder, name);
            LoraAdapter adapter = loaded.Adapters.Create(new LoraOptions { Rank = ranks[i], Alpha = ranks[i], Init = "false" }, seed + i, name);
            AdapterWriter.Write(adapter, path, loaded.Adapters.Base);
            loaded.Adapters.Remove(name);
            written.Add((name, path));
        }

        return written;
    }

    public async ValueTask DisposeAsync()
    {
        await _app.DisposeAsync().ConfigureAwait(false);
        Engine.Dispose();
    }
}
