using System.Text.Json.Nodes;
using LoraSharp.Server.Telemetry;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Server;

/// <summary>The operator's routes below <c>/admin</c>.</summary>
internal sealed class AdminEndpoint(ServedModel model, ServerOptions options, ServerState state, ServerMetrics metrics, AdaptersEndpoint adapters, ILogger logger)
{
    private const int MostNames = 1000;

    /// <summary><c>GET /admin/status</c>.</summary>
    public Task StatusAsync(HttpContext context)
    {
        EngineStatus engine = model.Engine.Status;
        return JsonBody.WriteAsync(context, new JsonObject
        {
            ["model"] = options.ModelName,
            ["started"] = state.Started.ToUnixTimeSeconds(),
            ["draining"] = state.IsDraining,
            ["requests_under_way"] = state.UnderWay,
            ["running"] = engine.Running,
            ["waiting"] = engine.Waiting,
            ["cached_tokens"] = engine.CachedTokens,
            ["shared_tokens"] = engine.SharedTokens,
            ["generated_tokens"] = engine.GeneratedTokens,
            ["prompt_tokens"] = engine.PromptTokens,
            ["steps"] = engine.Steps,
            ["preemptions"] = engine.Preemptions,
            ["blocks"] = new JsonObject { ["total"] = engine.Blocks.Total, ["used"] = engine.Blocks.Used, ["cached"] = engine.Blocks.Cached, ["size"] = model.Engine.Limits.BlockSize },
            ["adapter_bytes"] = new JsonObject { ["device"] = engine.Adapters.DeviceBytes, ["host"] = engine.Adapters.HostBytes },
            ["training_share"] = engine.TrainingShare,
            ["tokens_per_second"] = Math.Round(metrics.TokensPerSecond, 2),
            ["max_model_len"] = model.Engine.MaxLength,
            ["adapters"] = new JsonArray([.. model.Engine.Adapters.Select(a => (JsonNode)ToJson(a))]),
        });
    }

    /// <summary><c>POST /admin/adapters/load</c>: <c>{"name", "path"}</c>, new or in another's place; <c>"lazy": true</c> reads it when it is first asked for.</summary>
    public async Task LoadAsync(HttpContext context)
    {
        RequestBody body = await adapters.ReadAsync(context).ConfigureAwait(false);
        string name = adapters.NewName(body.Text("name"), "name");
        string path = adapters.AllowedPath(body.Text("path"), "path");
        if (body.Flag("lazy"))
        {
            await model.Engine.RegisterAsync(name, path).ConfigureAwait(false);
        }
        else
        {
            _ = await model.Engine.LoadAsync(name, path).ConfigureAwait(false);
        }

        RequestLog.AdapterChanged(logger, name, body.Flag("lazy") ? "registered" : "loaded", RequestScope.Of(context).Caller.Key.Name);
        if (body.Has("pinned"))
        {
            await model.Engine.PinAsync(name, body.Flag("pinned")).ConfigureAwait(false);
        }

        await AnswerAsync(context, name).ConfigureAwait(false);
    }

    /// <summary><c>POST /admin/adapters/pin</c>: <c>{"name", "pinned"}</c>: it stays in memory, or may give way again.</summary>
    public async Task PinAsync(HttpContext context)
    {
        RequestBody body = await adapters.ReadAsync(context).ConfigureAwait(false);
        string name = body.Text("name") ?? throw ApiError.Invalid("name", "name is missing.");
        bool pinned = !body.Has("pinned") || body.Flag("pinned");
        await model.Engine.PinAsync(name, pinned).ConfigureAwait(false);
        RequestLog.AdapterChanged(logger, name, pinned ? "pinned" : "unpinned", RequestScope.Of(context).Caller.Key.Name);
        await AnswerAsync(context, name).ConfigureAwait(false);
    }

    /// <summary><c>POST /admin/adapters/warm-up</c>: <c>{"names"}</c>: they are loaded before they are asked for.</summary>
    public async Task WarmUpAsync(HttpContext context)
    {
        RequestBody body = await adapters.ReadAsync(context).ConfigureAwait(false);
        IReadOnlyList<string> names = body.Texts("names", MostNames);
        AdapterInfo[] warm = await Task.WhenAll(names.Select(model.Engine.WarmAsync)).ConfigureAwait(false);
        await JsonBody.WriteAsync(context, new JsonObject { ["adapters"] = new JsonArray([.. warm.Select(a => (JsonNode)ToJson(a))]) }).ConfigureAwait(false);
    }

    /// <summary><c>POST /admin/adapters/unload</c>: <c>{"name"}</c>.</summary>
    public async Task UnloadAsync(HttpContext context)
    {
        RequestBody body = await adapters.ReadAsync(context).ConfigureAwait(false);
        string name = body.Text("name") ?? throw ApiError.Invalid("name", "name is missing.");
        await model.Engine.UnloadAsync(name).ConfigureAwait(false);
        RequestLog.AdapterChanged(logger, name, "unloaded", RequestScope.Of(context).Caller.Key.Name);
        await JsonBody.WriteAsync(context, new JsonObject { ["unloaded"] = name }).ConfigureAwait(false);
    }

    /// <summary><c>POST /admin/drain</c>: nothing new is taken, what is under way ends; <c>/ready</c> says 503.</summary>
    public Task DrainAsync(HttpContext context)
    {
        state.Drain();
        RequestLog.Draining(logger, state.UnderWay);
        return DrainingAsync(context);
    }

    /// <summary><c>POST /admin/resume</c>.</summary>
    public Task ResumeAsync(HttpContext context)
    {
        state.Resume();
        return DrainingAsync(context);
    }

    /// <summary><c>POST /admin/keys/reload</c>: reads the file of keys again.</summary>
    public Task ReloadKeysAsync(HttpContext context)
    {
        if (options.KeysFile is null)
        {
            throw new ApiError(StatusCodes.Status400BadRequest, "The server was started without a file of keys (--keys).");
        }

        state.ReloadKeys();
        return JsonBody.WriteAsync(context, new JsonObject { ["reloaded"] = true });
    }

    private Task DrainingAsync(HttpContext context) => JsonBody.WriteAsync(context, new JsonObject { ["draining"] = state.IsDraining, ["requests_under_way"] = state.UnderWay });

    // It may be gone again: others change adapters too.
    private Task AnswerAsync(HttpContext context, string name) =>
        JsonBody.WriteAsync(context, model.Engine.FindAdapter(name) is { } info ? ToJson(info) : new JsonObject { ["name"] = name, ["loaded"] = false });

    private static JsonObject ToJson(AdapterInfo adapter) => new()
    {
        ["name"] = adapter.Name,
        ["path"] = adapter.Path,
        ["loaded"] = adapter.IsLoaded,
        ["place"] = adapter.Place.ToString().ToLowerInvariant(),
        ["pinned"] = adapter.IsPinned,
        ["merged"] = adapter.IsMerged,
        ["bytes"] = adapter.Bytes,
        ["rank"] = adapter.Rank > 0 ? adapter.Rank : null,
    };
}
