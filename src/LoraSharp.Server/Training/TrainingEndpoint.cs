using System.Globalization;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Server.Telemetry;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Server.Training;

/// <summary><c>/admin/training</c>: start a fine-tune beside serving, watch it, end it.</summary>
internal sealed class TrainingEndpoint(ServedModel model, ServerOptions options, ServerState state, AdaptersEndpoint adapters, ILogger logger)
{
    /// <summary><c>POST /admin/training</c>: answers when the first step can be made, so that what is wrong with recipe or data is told here.</summary>
    public async Task StartAsync(HttpContext context)
    {
        RequestBody body = await adapters.ReadAsync(context).ConfigureAwait(false);
        if (model.Training is not { } desk || options.TrainingFolder is not { } folder)
        {
            throw new ApiError(StatusCodes.Status403Forbidden, "This server does not train over HTTP: start it with --training-folder DIR, where data is read and runs are written.", null, "training_off");
        }

        var request = TrainingRequest.Read(body, folder, desk.Model, options.ModelName);
        _ = adapters.NewName(request.Name, "name");
        TrainingJob job;
        try
        {
            job = desk.Start(request.Recipe, request.Name, request.Share, folder);
        }
        catch (TrainingBusyException busy)
        {
            throw new ApiError(StatusCodes.Status409Conflict, busy.Message, null, "training_under_way");
        }

        RequestLog.AdapterChanged(logger, request.Name, "training started", RequestScope.Of(context).Caller.Key.Name);
        await job.Begun.WaitAsync(context.RequestAborted).ConfigureAwait(false);
        if (job is { State: TrainingState.Failed, Error: LoraSharpException fault })
        {
            throw new ApiError(StatusCodes.Status400BadRequest, fault.Message, "recipe", "invalid_recipe");
        }

        context.Response.StatusCode = StatusCodes.Status202Accepted;
        await JsonBody.WriteAsync(context, job.ToJson()).ConfigureAwait(false);
    }

    /// <summary><c>GET /admin/training</c>: where it stands.</summary>
    public Task StatusAsync(HttpContext context) => JsonBody.WriteAsync(context, model.Training?.Current?.ToJson() ?? new JsonObject { ["state"] = "none" });

    /// <summary><c>GET /admin/training/events</c>: what happened and happens, as server-sent events; <c>?after=N</c> or <c>Last-Event-ID</c> goes on.</summary>
    public async Task WatchAsync(HttpContext context)
    {
        TrainingJob job = Job();
        string asked = context.Request.Query["after"].ToString() is { Length: > 0 } query ? query : context.Request.Headers["Last-Event-ID"].ToString();
        long after = asked.Length == 0 ? 0 : long.TryParse(asked, NumberStyles.None, CultureInfo.InvariantCulture, out long id) ? id : throw ApiError.Invalid("after", $"after: expected an event's number, found '{ApiError.Shorten(asked)}'.");
        using var over = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, state.Stopping);
        using var events = new EventStream(context);
        await events.RunAsync(async () =>
        {
            await foreach ((long number, string text) in job.EventsAsync(after, over.Token).ConfigureAwait(false))
            {
                await events.SendAsync(text, number).ConfigureAwait(false);
            }
        }).ConfigureAwait(false);
    }

    /// <summary><c>POST /admin/training/cancel</c>: it ends after the step it is in, with a checkpoint.</summary>
    public async Task CancelAsync(HttpContext context)
    {
        TrainingJob job = Job();
        if (job.IsOver)
        {
            throw new ApiError(StatusCodes.Status409Conflict, $"The training run '{job.Name}' has ended already.", null, "training_over");
        }

        job.Cancel();
        RequestLog.AdapterChanged(logger, job.Name, "training cancelled", RequestScope.Of(context).Caller.Key.Name);
        await job.Ended.WaitAsync(context.RequestAborted).ConfigureAwait(false);
        await JsonBody.WriteAsync(context, job.ToJson()).ConfigureAwait(false);
    }

    private TrainingJob Job() => model.Training?.Current ?? throw new ApiError(StatusCodes.Status404NotFound, "No training run has been started.", null, "no_training");
}
