using System.Net;
using LoraSharp.Server.Access;
using LoraSharp.Server.Telemetry;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Server;

/// <summary>
/// Stands before every route: who is it, may they, is there room, until when. Behind it stands the one place where errors
/// become answers, in OpenAI's shape whatever went wrong, and where a request is logged and counted.
/// </summary>
internal sealed class Gatekeeper(ServedModel model, ServerState state, ServerOptions options, ServerMetrics metrics, TimeProvider clock, ILogger logger, bool wholeApplication)
{
    private static readonly TimeSpan WhileDraining = TimeSpan.FromSeconds(5);

    public async Task InvokeAsync(HttpContext context, RequestDelegate next)
    {
        RouteMark? mark = context.GetEndpoint()?.Metadata.GetMetadata<RouteMark>();
        bool ours = mark is not null || context.Request.Path.StartsWithSegments("/v1") || context.Request.Path.StartsWithSegments("/admin");
        if (!ours && !wholeApplication)
        {
            await next(context).ConfigureAwait(false);
            return;
        }

        // A route that is not there is not told from one that is, without a key.
        mark ??= new RouteMark(ours ? RouteAccess.Use : RouteAccess.Open);
        string id = RequestId(context.Request);
        context.Response.Headers["x-request-id"] = id;
        CancellationToken gone = context.RequestAborted;
        using var limit = new CancellationTokenSource(mark.Watches ? Timeout.InfiniteTimeSpan : options.RequestTimeout, clock);
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(gone, state.CutOff, limit.Token);
        context.RequestAborted = deadline.Token;
        RequestScope? scope = null;
        try
        {
            Caller caller = Admit(context, mark);
            scope = new RequestScope(id, caller, (context.GetEndpoint() as Microsoft.AspNetCore.Routing.RouteEndpoint)?.RoutePattern.RawText ?? "unknown", model, options, metrics, clock) { Gone = gone, Explain = Explain };
            context.Features.Set(scope);
            await ServeAsync(context, next, mark, caller).ConfigureAwait(false);
            context.RequestAborted = gone;
            if (!context.Response.HasStarted && context.Response is { StatusCode: >= 400, ContentType: null })
            {
                await ApiError.FromStatus(context.Request, context.Response.StatusCode).WriteAsync(context).ConfigureAwait(false);
            }
        }
        catch (Exception error) when (error is ConnectionResetException || (error is OperationCanceledException && gone.IsCancellationRequested))
        {
            // The client has left; nobody is there to be answered. 499 is what logs call that.
            if (!context.Response.HasStarted)
            {
                context.Response.StatusCode = StatusCodes.Status499ClientClosedRequest;
            }
        }
        catch (Exception error)
        {
            context.RequestAborted = gone;
            await AnswerAsync(context, error).ConfigureAwait(false);
        }
        finally
        {
            context.RequestAborted = gone;
            metrics.Finished(mark, scope, context.Response.StatusCode);
            Describe(context, scope);
            Log(context, mark, id, scope);
        }
    }

    /// <summary>What an error is to the client.</summary>
    private ApiError Explain(Exception error) => error switch
    {
        OperationCanceledException when state.CutOff.IsCancellationRequested || state.Stopping.IsCancellationRequested => ApiError.Unavailable("The server is shutting down.", WhileDraining),
        OperationCanceledException => new ApiError(StatusCodes.Status504GatewayTimeout, $"The request took longer than {options.RequestTimeout.TotalSeconds:0} s.", null, "timeout"),
        _ => ApiError.From(error) ?? new ApiError(StatusCodes.Status500InternalServerError, "The server failed at this request; its log says more.", null, "internal_error"),
    };

    private Caller Admit(HttpContext context, RouteMark mark)
    {
        if (mark.Access == RouteAccess.Open)
        {
            return state.Keys.Anyone;
        }

        Caller caller = state.Keys.Identify(context.Request, mark.Access);
        RefuseForeignHosts(context, caller);
        return mark.Computes && state.IsDraining ? throw ApiError.Unavailable("The server is about to stop and takes no new requests.", WhileDraining) : caller;
    }

    private async Task ServeAsync(HttpContext context, RequestDelegate next, RouteMark mark, Caller caller)
    {
        if (!mark.Computes)
        {
            await next(context).ConfigureAwait(false);
            return;
        }

        using IDisposable? place = caller.Enter();
        context.Response.OnStarting(() =>
        {
            foreach ((string name, long value) in caller.Headers())
            {
                context.Response.Headers[name] = value.ToString(System.Globalization.CultureInfo.InvariantCulture);
            }

            return Task.CompletedTask;
        });
        state.Enter();
        try
        {
            await next(context).ConfigureAwait(false);
        }
        finally
        {
            state.Leave();
        }
    }

    // A web page may make a browser ask its own machine, under a name of the page's making (DNS rebinding). Where no key
    // stands in between, a loopback address is served under its own names only.
    private void RefuseForeignHosts(HttpContext context, Caller caller)
    {
        string host = context.Request.Host.Host;
        bool foreign = context.Connection.LocalIpAddress is { } local && IPAddress.IsLoopback(local)
            && !(host.Equals("localhost", StringComparison.OrdinalIgnoreCase) || host.EndsWith(".localhost", StringComparison.OrdinalIgnoreCase) || (IPAddress.TryParse(host.Trim('[', ']'), out IPAddress? ip) && IPAddress.IsLoopback(ip)));
        if (foreign && ReferenceEquals(caller, state.Keys.Anyone))
        {
            throw new ApiError(StatusCodes.Status403Forbidden, $"The server asks for no key and is reached as '{ApiError.Shorten(host)}', which is no name of this machine's own. Use localhost, or start it with --api-key.", null, "foreign_host");
        }
    }

    private async Task AnswerAsync(HttpContext context, Exception error)
    {
        ApiError answer = Explain(error);
        if (answer.Status == StatusCodes.Status500InternalServerError)
        {
            RequestLog.Failed(logger, error, context.Request.Method, context.Request.Path);
        }

        if (context.Response.HasStarted)
        {
            // Too late for a status: the broken answer ends with the connection.
            context.Abort();
            return;
        }

        try
        {
            context.Response.Clear();
            context.Response.Headers["x-request-id"] = RequestId(context.Request);
            await answer.WriteAsync(context).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // It left meanwhile.
        }
    }

    // ASP.NET Core makes the request's span and leaves its name and tags to others.
    private static void Describe(HttpContext context, RequestScope? scope)
    {
        if (context.Features.Get<IHttpActivityFeature>()?.Activity is { IsAllDataRequested: true } activity)
        {
            activity.DisplayName = scope is null ? context.Request.Method : $"{context.Request.Method} {scope.Route}";
            activity.SetTag("http.request.method", context.Request.Method).SetTag("http.route", scope?.Route).SetTag("http.response.status_code", context.Response.StatusCode);
            if (context.Response.StatusCode >= StatusCodes.Status500InternalServerError)
            {
                activity.SetTag("error.type", context.Response.StatusCode.ToString(System.Globalization.CultureInfo.InvariantCulture)).SetStatus(System.Diagnostics.ActivityStatusCode.Error);
            }
        }
    }

    private void Log(HttpContext context, RouteMark mark, string id, RequestScope? scope)
    {
        if (mark.Access != RouteAccess.Open)
        {
            RequestLog.Finished(logger, id, context.Request.Method, scope?.Route ?? "", context.Response.StatusCode, scope?.Caller.Key.Name ?? "", scope?.Model ?? "", scope?.PromptTokens ?? 0, scope?.GeneratedTokens ?? 0, scope?.FirstToken?.TotalMilliseconds ?? 0, scope?.Elapsed.TotalMilliseconds ?? 0);
        }
    }

    // The caller's own id is kept where it is one, so that its log and ours can be put together.
    private static string RequestId(HttpRequest request)
    {
        string given = request.Headers["x-request-id"].ToString();
        return given.Length is > 0 and <= 128 && given.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.') ? given : "req_" + request.HttpContext.TraceIdentifier.Replace(":", "");
    }
}
