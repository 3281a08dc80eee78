using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary>Server-sent events.</summary>
internal sealed class EventStream(HttpContext context)
{
    private bool _started;

    public async Task SendAsync(JsonObject data)
    {
        if (!_started)
        {
            _started = true;
            context.Response.ContentType = "text/event-stream";
            context.Response.Headers.CacheControl = "no-cache";
        }

        await context.Response.WriteAsync($"data: {data.ToJsonString()}\n\n", context.RequestAborted).ConfigureAwait(false);
        await context.Response.Body.FlushAsync(context.RequestAborted).ConfigureAwait(false);
    }

    /// <summary>Sends the end mark; an error that comes after the first event is sent as one.</summary>
    public async Task RunAsync(Func<Task> work)
    {
        try
        {
            await work().ConfigureAwait(false);
        }
        catch (Exception error) when (_started && error is not OperationCanceledException && ApiError.From(error) is { } api)
        {
            await SendAsync(api.ToJson()).ConfigureAwait(false);
        }

        await context.Response.WriteAsync("data: [DONE]\n\n", context.RequestAborted).ConfigureAwait(false);
    }
}
