using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary>
/// Server-sent events. Several choices may send at once. While there is nothing to send, a comment goes out now and then, so
/// that no proxy between takes the connection for dead.
/// </summary>
internal sealed class EventStream(HttpContext context) : IDisposable
{
    private readonly SemaphoreSlim _gate = new(1);
    private bool _started;
    private bool _silent = true;

    public Task SendAsync(JsonObject data) => SendAsync(data.ToJsonString(JsonBody.Options));

    /// <summary>Sends an event.</summary>
    /// <param name="data">One line.</param>
    /// <param name="id">Its number, by which a client that was cut off goes on; null for none.</param>
    public async Task SendAsync(string data, long? id = null)
    {
        await _gate.WaitAsync(context.RequestAborted).ConfigureAwait(false);
        try
        {
            _silent = false;
            await WriteAsync(id is { } number ? FormattableString.Invariant($"id: {number}\ndata: {data}") : "data: " + data, context.RequestAborted).ConfigureAwait(false);
        }
        finally
        {
            _gate.Release();
        }
    }

    /// <summary>Sends the end mark; an error that comes after the stream has begun, when it is too late for a status, is sent as an event.</summary>
    public async Task RunAsync(Func<Task> work)
    {
        var scope = RequestScope.Of(context);
        try
        {
            await WithKeepAliveAsync(work, scope).ConfigureAwait(false);
        }
        catch (Exception error) when (_started && !scope.Gone.IsCancellationRequested)
        {
            ApiError told = scope.Explain(error);
            scope.Fault = told.Code ?? "error";
            await WriteAsync("data: " + told.ToJson().ToJsonString(JsonBody.Options), scope.Gone).ConfigureAwait(false);
        }

        await WriteAsync("data: [DONE]", scope.Gone).ConfigureAwait(false);
    }

    public void Dispose() => _gate.Dispose();

    private async Task WithKeepAliveAsync(Func<Task> work, RequestScope scope)
    {
        if (scope.KeepAlive == TimeSpan.Zero)
        {
            await work().ConfigureAwait(false);
            return;
        }

        using var over = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted);
        Task alive = KeepAliveAsync(scope, over.Token);
        try
        {
            await work().ConfigureAwait(false);
        }
        finally
        {
            // Nobody else writes when the end mark or the error does.
            await over.CancelAsync().ConfigureAwait(false);
            await alive.ConfigureAwait(false);
        }
    }

    private async Task KeepAliveAsync(RequestScope scope, CancellationToken over)
    {
        try
        {
            using var timer = new PeriodicTimer(scope.KeepAlive, scope.Clock);
            while (await timer.WaitForNextTickAsync(over).ConfigureAwait(false))
            {
                await _gate.WaitAsync(over).ConfigureAwait(false);
                try
                {
                    if (_silent)
                    {
                        await WriteAsync(": keep-alive", over).ConfigureAwait(false);
                    }

                    _silent = true;
                }
                finally
                {
                    _gate.Release();
                }
            }
        }
        catch (OperationCanceledException)
        {
            // The answer has ended, or the client has left.
        }
    }

    private async Task WriteAsync(string lines, CancellationToken cancellation)
    {
        if (!_started)
        {
            _started = true;
            context.Response.ContentType = "text/event-stream; charset=utf-8";
            context.Response.Headers.CacheControl = "no-cache";

            // Proxies that gather answers (nginx) would hold the events back.
            context.Response.Headers["X-Accel-Buffering"] = "no";
        }

        await context.Response.WriteAsync($"{lines}\n\n", cancellation).ConfigureAwait(false);
        await context.Response.Body.FlushAsync(cancellation).ConfigureAwait(false);
    }
}
