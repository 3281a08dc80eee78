using System.Text.Json.Nodes;
using LoraSharp.Server.Telemetry;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Server;

/// <summary>The operator's routes below <c>/admin</c>.</summary>
internal sealed class AdminEndpoint(ServedModel model, ServerOptions options, ServerState state, ServerMetrics metrics, AdaptersEndpoint adapters, ILogger logger)
{
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
            ["generated_tokens"] = engine.GeneratedTokens,
            ["prompt_tokens"] = engine.PromptTokens,
            ["steps"] = engine.Steps,
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
        await JsonBody.WriteAsync(context, ToJson(model.Engine.Adapters.First(a => a.Name == name))).ConfigureAwait(false);
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

    private static JsonObject ToJson(AdapterInfo adapter) => new() { ["name"] = adapter.Name, ["path"] = adapter.Path, ["loaded"] = adapter.IsLoaded, ["rank"] = adapter.Rank > 0 ? adapter.Rank : null };
}
