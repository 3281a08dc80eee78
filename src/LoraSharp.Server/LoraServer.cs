using System.Net;
using System.Text.Json.Nodes;
using LoraSharp.Server.Access;
using LoraSharp.Server.Telemetry;
using LoraSharp.Server.Training;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using OpenTelemetry.Metrics;

namespace LoraSharp.Server;

/// <summary>OpenAI-compatible HTTP over an <see cref="Serving.InferenceEngine"/>: completions, chat, models, adapters, health, metrics.</summary>
public static class LoraServer
{
    // Before a body's rate is measured; the web server measures once a second.
    private static readonly TimeSpan LongestGrace = TimeSpan.FromSeconds(5);

    /// <summary>Builds a web application that listens on one address.</summary>
    /// <param name="model">What is served; stays the caller's.</param>
    /// <param name="options">Keys, limits, names.</param>
    /// <param name="address">Where to listen.</param>
    /// <param name="port">Port; 0 for any free one.</param>
    /// <param name="logging">What is logged and how; null: warnings and errors, as ASP.NET writes them.</param>
    /// <param name="clock">For time limits, keep-alives and figures; null for the system's.</param>
    /// <exception cref="Formats.LoraSharpException">Options are out of range, or the file of keys is faulty.</exception>
    public static WebApplication Create(ServedModel model, ServerOptions options, IPAddress address, int port, Action<ILoggingBuilder>? logging = null, TimeProvider? clock = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.Logging.SetMinimumLevel(LogLevel.Warning);
        logging?.Invoke(builder.Logging);
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.Listen(address, port);
            Limit(kestrel.Limits, options);
            kestrel.AddServerHeader = false;
        });
        builder.Services.AddRouting();
        builder.Services.AddLoraSharpTelemetry();
        builder.Services.AddCors(cors => cors.AddDefaultPolicy(policy => policy.WithOrigins([.. options.AllowedOrigins]).AllowAnyHeader().WithMethods("GET", "POST")));
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = options.DrainTimeout + TimeSpan.FromSeconds(5));
        WebApplication app = builder.Build();
        if (options.AllowedOrigins.Count > 0)
        {
            app.UseCors();
        }

        app.Map(model, options, clock ?? TimeProvider.System, wholeApplication: true);
        return app;
    }

    /// <summary>
    /// Adds the routes to an application of the caller's own. Keys and limits hold for them alone. <c>/metrics</c> is there when
    /// <see cref="TelemetrySetup.AddLoraSharpTelemetry"/> was called on the services.
    /// </summary>
    /// <param name="app">Gets the routes.</param>
    /// <param name="model">What is served; stays the caller's.</param>
    /// <param name="options">Keys, limits, names.</param>
    /// <param name="clock">For time limits, keep-alives and figures; null for the system's.</param>
    /// <exception cref="Formats.LoraSharpException">Options are out of range, or the file of keys is faulty.</exception>
    public static IEndpointRouteBuilder MapLoraSharp(this WebApplication app, ServedModel model, ServerOptions options, TimeProvider? clock = null)
    {
        ArgumentNullException.ThrowIfNull(app);
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        app.Map(model, options, clock ?? TimeProvider.System, wholeApplication: false);
        return app;
    }

    // Slow and greedy clients are the web server's affair: what it is told here is the defence against them.
    private static void Limit(KestrelServerLimits limits, ServerOptions options)
    {
        limits.MaxRequestBodySize = options.MaxRequestBytes;
        limits.MaxRequestHeadersTotalSize = 32 << 10;
        limits.MaxRequestHeaderCount = 100;
        limits.MaxRequestLineSize = 8 << 10;
        limits.RequestHeadersTimeout = options.HeadersTimeout;
        limits.KeepAliveTimeout = TimeSpan.FromMinutes(2);
        limits.MaxConcurrentConnections = options.MaxConnections;
        limits.MinRequestBodyDataRate = new MinDataRate(bytesPerSecond: 240, gracePeriod: options.HeadersTimeout < LongestGrace ? options.HeadersTimeout : LongestGrace);
        limits.MinResponseDataRate = new MinDataRate(bytesPerSecond: 240, gracePeriod: TimeSpan.FromSeconds(10));
    }

    private static void Map(this WebApplication app, ServedModel model, ServerOptions options, TimeProvider clock, bool wholeApplication)
    {
        ILogger logger = app.Services.GetRequiredService<ILoggerFactory>().CreateLogger("LoraSharp.Server");
        var state = new ServerState(options, clock);
        var metrics = new ServerMetrics(state);
        app.Lifetime.ApplicationStopping.Register(() =>
        {
            state.Stop();
            model.Training?.Current?.Cancel();
        });
        app.Lifetime.ApplicationStopped.Register(() =>
        {
            metrics.Dispose();
            state.Dispose();
        });
        if (options.Playground)
        {
            var page = new PlaygroundPage();
            app.Use(page.InvokeAsync);
        }

        var gate = new Gatekeeper(model, state, options, metrics, clock, logger, wholeApplication);
        app.Use((context, next) => gate.InvokeAsync(context, next));

        RouteGroupBuilder open = app.MapGroup("").WithMetadata(new RouteMark(RouteAccess.Open));
        open.MapGet("/health", context => JsonBody.WriteAsync(context, new JsonObject { ["status"] = "ok" }));
        open.MapGet("/ready", context => ReadyAsync(context, state));

        RouteGroupBuilder use = app.MapGroup("").WithMetadata(new RouteMark(RouteAccess.Use));
        var models = new ModelsEndpoint(model, options, state);
        use.MapGet("/v1/models", models.ListAsync);
        use.MapGet("/v1/models/{**name}", models.GetAsync);
        var status = new StatusEndpoint(model, options);
        use.MapGet("/status", context => JsonBody.WriteAsync(context, status.Read()));
        RouteGroupBuilder compute = app.MapGroup("").WithMetadata(new RouteMark(RouteAccess.Use, Computes: true));
        compute.MapPost("/v1/completions", new CompletionsEndpoint(model).HandleAsync);
        compute.MapPost("/v1/chat/completions", new ChatEndpoint(model, options).HandleAsync);
        compute.MapPost("/v1/embeddings", new EmbeddingsEndpoint(model).HandleAsync);

        RouteGroupBuilder operate = app.MapGroup("").WithMetadata(new RouteMark(RouteAccess.Admin));
        var adapters = new AdaptersEndpoint(model, options, logger);
        var training = new TrainingEndpoint(model, options, state, adapters, logger);
        operate.MapPost("/admin/training", training.StartAsync);
        operate.MapGet("/admin/training", training.StatusAsync);
        operate.MapPost("/admin/training/cancel", training.CancelAsync);
        app.MapGroup("").WithMetadata(new RouteMark(RouteAccess.Admin, Watches: true)).MapGet("/admin/training/events", training.WatchAsync);

        // The curves of the folder that was named at the start, else of what is trained here.
        operate.MapGet("/training", (long? after) => (options.RunFolder ?? model.Training?.Current?.Output) is { } folder
            ? Results.Json(new RunMetrics(folder).Read(after ?? 0))
            : throw new ApiError(StatusCodes.Status404NotFound, "No training run is watched: start the server with --run DIR, or a run with POST /admin/training.", null, "no_training"));

        operate.MapPost("/v1/load_lora_adapter", adapters.LoadAsync);
        operate.MapPost("/v1/unload_lora_adapter", adapters.UnloadAsync);
        var admin = new AdminEndpoint(model, options, state, metrics, adapters, logger);
        operate.MapGet("/admin/status", admin.StatusAsync);
        operate.MapPost("/admin/adapters/load", admin.LoadAsync);
        operate.MapPost("/admin/adapters/unload", admin.UnloadAsync);
        operate.MapPost("/admin/adapters/pin", admin.PinAsync);
        operate.MapPost("/admin/adapters/warm-up", admin.WarmUpAsync);
        operate.MapPost("/admin/drain", admin.DrainAsync);
        operate.MapPost("/admin/resume", admin.ResumeAsync);
        operate.MapPost("/admin/keys/reload", admin.ReloadKeysAsync);
        if (app.Services.GetService<MeterProvider>() is not null)
        {
            operate.MapPrometheusScrapingEndpoint("/metrics");
        }
    }

    private static Task ReadyAsync(HttpContext context, ServerState state)
    {
        context.Response.StatusCode = state.IsDraining ? StatusCodes.Status503ServiceUnavailable : StatusCodes.Status200OK;
        return JsonBody.WriteAsync(context, new JsonObject { ["status"] = state.IsDraining ? "draining" : "ready" });
    }
}
