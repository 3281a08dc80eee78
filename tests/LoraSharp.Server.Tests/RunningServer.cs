using System.Net;
using System.Net.Http.Json;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Server.Training;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Builder;

namespace LoraSharp.Server.Tests;

/// <summary>A server in this process on a free port, over one of the fixture models.</summary>
internal sealed class RunningServer : IAsyncDisposable
{
    private readonly LoadedModel _loaded;
    private readonly WebApplication _app;

    private RunningServer(LoadedModel loaded, InferenceEngine engine, WebApplication app)
    {
        _loaded = loaded;
        Engine = engine;
        _app = app;

        // On a loaded machine an answer may take its time; a test that hangs is ended by the test run.
        Client = new HttpClient { BaseAddress = new Uri(app.Urls.First()), Timeout = Timeout.InfiniteTimeSpan };
    }

    public LoadedModel Loaded => _loaded;

    public InferenceEngine Engine { get; }

    public HttpClient Client { get; }

    public static async Task<RunningServer> StartAsync(string model, IReadOnlyDictionary<string, string>? adapters = null, ServerOptions? options = null, EngineLimits? limits = null, TimeProvider? clock = null)
    {
        LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = model, Device = "cpu" });
        InferenceEngine engine = loaded.CreateEngine(limits ?? new EngineLimits());
        foreach ((string name, string path) in adapters ?? new Dictionary<string, string>())
        {
            await engine.LoadAsync(name, path);
        }

        WebApplication app = LoraServer.Create(
            new ServedModel(engine, loaded.TokenizerOrNull, loaded.ChatTemplateOrNull, loaded.Generation) { Training = new TrainingDesk(engine, loaded) }, options ?? new ServerOptions { ModelName = "base" }, IPAddress.Loopback, 0, clock: clock);
        await app.StartAsync();
        return new RunningServer(loaded, engine, app);
    }

    public async Task<(HttpStatusCode Status, JsonObject Body)> PostAsync(string path, JsonObject body)
    {
        using HttpResponseMessage response = await Client.PostAsync(path, new StringContent(body.ToJsonString(), Encoding.UTF8, "application/json"));
        return (response.StatusCode, (await response.Content.ReadFromJsonAsync<JsonObject>())!);
    }

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await _app.DisposeAsync();
        Engine.Dispose();
        _loaded.Dispose();
    }
}
