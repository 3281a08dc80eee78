using System.Net;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Server;

/// <summary>What the routes work with.</summary>
/// <param name="Engine">Generates.</param>
/// <param name="Tokenizer">Texts; null when the model has none (token ids only).</param>
/// <param name="Template">Chats; null when the model has none.</param>
/// <param name="Defaults">End ids of the model's makers.</param>
public sealed record ServedModel(InferenceEngine Engine, Tokenizer? Tokenizer, ChatTemplate? Template, GenerationConfig Defaults);

/// <summary>OpenAI-compatible HTTP over an <see cref="InferenceEngine"/>: completions, chat, models, adapters, health.</summary>
public static class LoraServer
{
    /// <summary>Builds a web application that listens on one address.</summary>
    /// <param name="model">What is served; stays the caller's.</param>
    /// <param name="options">Keys, limits, names.</param>
    /// <param name="address">Where to listen.</param>
    /// <param name="port">Port; 0 for any free one.</param>
    public static WebApplication Create(ServedModel model, ServerOptions options, IPAddress address, int port)
    {
        ArgumentNullException.ThrowIfNull(options);
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.Logging.SetMinimumLevel(LogLevel.Warning);
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.Listen(address, port);
            kestrel.Limits.MaxRequestBodySize = options.MaxRequestBytes;
            kestrel.AddServerHeader = false;
        });
        builder.Services.AddRouting();
        WebApplication app = builder.Build();
        app.MapLoraSharp(model, options);
        return app;
    }

    /// <summary>Adds the routes to an application of the caller's own.</summary>
    public static IEndpointRouteBuilder MapLoraSharp(this WebApplication app, ServedModel model, ServerOptions options)
    {
        ArgumentNullException.ThrowIfNull(app);
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        if (options.Playground)
        {
            var page = new PlaygroundPage();
            app.Use(page.InvokeAsync);
        }

        app.Use((context, next) => Guard(context, next, options));
        app.MapGet("/health", () => Results.Json(new { status = "ok" }));
        app.MapGet("/ready", () => Results.Json(new { status = "ready" }));
        app.MapGet("/metrics", () => Results.Text(Metrics(model.Engine), "text/plain; version=0.0.4"));
        var status = new StatusEndpoint(model, options);
        app.MapGet("/status", () => Results.Json(status.Read()));
        if (options.RunFolder is { } folder)
        {
            var run = new RunMetrics(folder);
            app.MapGet("/training", (long? after) => Results.Json(run.Read(after ?? 0)));
        }

        app.MapGet("/v1/models", () => Results.Json(Models(model, options)));
        app.MapGet("/v1/models/{**name}", (string name) => Results.Json(Models(model, options)["data"]!.AsArray().FirstOrDefault(m => (string?)m!["id"] == name) ?? throw NotFound(model, options, name)));
        var completions = new CompletionsEndpoint(model, options);
        app.MapPost("/v1/completions", completions.HandleAsync);
        var chat = new ChatEndpoint(model, options);
        app.MapPost("/v1/chat/completions", chat.HandleAsync);
        app.MapPost("/v1/load_lora_adapter", context => LoadAsync(context, model.Engine, options));
        app.MapPost("/v1/unload_lora_adapter", context => UnloadAsync(context, model.Engine, options));
        return app;
    }

    /// <summary>The adapter a request's <c>model</c> names; null for the base.</summary>
    internal static string? AdapterOf(RequestBody body, ServedModel model, ServerOptions options)
    {
        string name = body.Text("model") ?? options.ModelName;
        return name == options.ModelName ? null : model.Engine.Adapters.Any(a => a.Name == name) ? name : throw NotFound(model, options, name);
    }

    private static ApiError NotFound(ServedModel model, ServerOptions options, string name) => new(
        StatusCodes.Status404NotFound,
        $"There is no model '{(name.Length > 100 ? name[..100] + "…" : name)}'. There are: {string.Join(", ", model.Engine.Adapters.Select(a => a.Name).Prepend(options.ModelName).Take(50))}.",
        "model",
        "model_not_found");

    private static async Task Guard(HttpContext context, RequestDelegate next, ServerOptions options)
    {
        try
        {
            if (options.ApiKeys.Count > 0 && !context.Request.Path.StartsWithSegments("/health") && !context.Request.Path.StartsWithSegments("/ready") && !HasKey(context, options))
            {
                throw new ApiError(StatusCodes.Status401Unauthorized, "A valid API key is needed: Authorization: Bearer KEY.", null, "invalid_api_key");
            }

            await next(context).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (context.RequestAborted.IsCancellationRequested)
        {
            // The client has left; nobody is there to be answered.
        }
        catch (Exception error) when (!context.Response.HasStarted && ApiError.From(error) is not null)
        {
            await ApiError.From(error)!.WriteAsync(context).ConfigureAwait(false);
        }
    }

    private static bool HasKey(HttpContext context, ServerOptions options)
    {
        string header = context.Request.Headers.Authorization.ToString();
        byte[] given = SHA256.HashData(Encoding.UTF8.GetBytes(header.StartsWith("Bearer ", StringComparison.OrdinalIgnoreCase) ? header[7..].Trim() : ""));
        bool known = false;
        foreach (string key in options.ApiKeys)
        {
            // All are compared, each in the same time, so that nothing is learnt from how long it takes.
            known |= CryptographicOperations.FixedTimeEquals(given, SHA256.HashData(Encoding.UTF8.GetBytes(key)));
        }

        return known;
    }

    private static JsonObject Models(ServedModel model, ServerOptions options)
    {
        var data = new JsonArray { new JsonObject { ["id"] = options.ModelName, ["object"] = "model", ["created"] = 0, ["owned_by"] = "lorasharp", ["parent"] = null, ["max_model_len"] = model.Engine.MaxLength } };
        foreach (AdapterInfo adapter in model.Engine.Adapters)
        {
            data.Add(new JsonObject { ["id"] = adapter.Name, ["object"] = "model", ["created"] = 0, ["owned_by"] = "lorasharp", ["parent"] = options.ModelName, ["root"] = adapter.Path, ["rank"] = adapter.Rank > 0 ? adapter.Rank : null, ["loaded"] = adapter.IsLoaded });
        }

        return new JsonObject { ["object"] = "list", ["data"] = data };
    }

    private static async Task LoadAsync(HttpContext context, InferenceEngine engine, ServerOptions options)
    {
        RequestBody body = await ChangesAsync(context, options).ConfigureAwait(false);
        string name = body.Text("lora_name") ?? throw ApiError.Invalid("lora_name", "lora_name is missing.");
        string path = body.Text("lora_path") ?? throw ApiError.Invalid("lora_path", "lora_path is missing.");
        if (name == options.ModelName || name.Length is 0 or > 200)
        {
            throw ApiError.Invalid("lora_name", "lora_name is empty, longer than 200 characters, or the base model's name.");
        }

        string full = Path.GetFullPath(path);
        if (options.AdapterFolders.Count > 0 && !options.AdapterFolders.Any(f => full.StartsWith(Path.GetFullPath(f) + Path.DirectorySeparatorChar, StringComparison.Ordinal)))
        {
            throw new ApiError(StatusCodes.Status403Forbidden, "lora_path is outside the folders that adapters may be loaded from.", "lora_path");
        }

        AdapterInfo info = await engine.LoadAsync(name, path).ConfigureAwait(false);
        await context.Response.WriteAsync($"Success: LoRA adapter '{info.Name}' added successfully.", context.RequestAborted).ConfigureAwait(false);
    }

    private static async Task UnloadAsync(HttpContext context, InferenceEngine engine, ServerOptions options)
    {
        RequestBody body = await ChangesAsync(context, options).ConfigureAwait(false);
        string name = body.Text("lora_name") ?? throw ApiError.Invalid("lora_name", "lora_name is missing.");
        await engine.UnloadAsync(name).ConfigureAwait(false);
        await context.Response.WriteAsync($"Success: LoRA adapter '{name}' removed successfully.", context.RequestAborted).ConfigureAwait(false);
    }

    private static Task<RequestBody> ChangesAsync(HttpContext context, ServerOptions options) =>
        options.AllowAdapterChanges ? RequestBody.ReadAsync(context) : throw new ApiError(StatusCodes.Status403Forbidden, "This server does not let adapters be changed over HTTP.");

    private static string Metrics(InferenceEngine engine)
    {
        EngineStatus s = engine.Status;
        var text = new StringBuilder();
        void Add(string name, string kind, string help, long value) => text.Append($"# HELP lorasharp_{name} {help}\n# TYPE lorasharp_{name} {kind}\nlorasharp_{name} {value}\n");
        Add("requests_running", "gauge", "Sequences being computed.", s.Running);
        Add("requests_waiting", "gauge", "Requests that wait.", s.Waiting);
        Add("cached_tokens", "gauge", "Tokens held in caches.", s.CachedTokens);
        Add("generated_tokens_total", "counter", "Tokens generated.", s.GeneratedTokens);
        Add("prompt_tokens_total", "counter", "Prompt tokens computed.", s.PromptTokens);
        Add("steps_total", "counter", "Forward passes.", s.Steps);
        Add("adapters_loaded", "gauge", "Adapters in memory.", engine.Adapters.Count(a => a.IsLoaded));
        return text.ToString();
    }
}
