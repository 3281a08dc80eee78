using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary>Server-sent events. Several choices may send at once.</summary>
internal sealed class EventStream(HttpContext context) : IDisposable
{
    private readonly SemaphoreSlim _gate = new(1);
    private bool _started;

    public async Task SendAsync(JsonObject data)
    {
        await _gate.WaitAsync(context.RequestAborted).ConfigureAwait(false);
        try
        {
            await WriteAsync(data.ToJsonString(JsonBody.Options), context.RequestAborted).ConfigureAwait(false);
        }
        finally
        {
            _gate.Release();
        }
    }

    /// <summary>Sends the end mark; an error that comes after the first event, when it is too late for a status, is sent as an event.</summary>
    public async Task RunAsync(Func<Task> work)
    {
        var scope = RequestScope.Of(context);
        try
        {
            await work().ConfigureAwait(false);
        }
        catch (Exception error) when (_started && !scope.Gone.IsCancellationRequested)
        {
            await WriteAsync(scope.Explain(error).ToJson().ToJsonString(JsonBody.Options), scope.Gone).ConfigureAwait(false);
        }

        await WriteAsync("[DONE]", scope.Gone).ConfigureAwait(false);
    }

    public void Dispose() => _gate.Dispose();

    private async Task WriteAsync(string data, CancellationToken cancellation)
    {
        if (!_started)
        {
            _started = true;
            context.Response.ContentType = "text/event-stream; charset=utf-8";
            context.Response.Headers.CacheControl = "no-cache";

            // Proxies that gather answers (nginx) would hold the events back.
            context.Response.Headers["X-Accel-Buffering"] = "no";
        }

        await context.Response.WriteAsync($"data: {data}\n\n", cancellation).ConfigureAwait(false);
        await context.Response.Body.FlushAsync(cancellation).ConfigureAwait(false);
    }
}
