using System.Diagnostics;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>Sends a load to a server, at its times (open loop) or as fast as a number of users get their answers (closed loop).</summary>
internal static class LoadRun
{
    private static readonly TimeSpan SlowPause = TimeSpan.FromMilliseconds(200);

    /// <summary>Sends every request when it is due, whatever became of those before: waiting shows in the figures.</summary>
    public static async Task<LoadSummary> OpenAsync(CompletionClient client, LoadProfile profile, CancellationToken cancellation)
    {
        long start = Stopwatch.GetTimestamp();
        var sent = new List<Task<(PlannedRequest, StreamedAnswer)>>();
        foreach (PlannedRequest request in profile.Plan())
        {
            TimeSpan wait = TimeSpan.FromSeconds(request.At) - Stopwatch.GetElapsedTime(start);
            if (wait > TimeSpan.Zero)
            {
                await Task.Delay(wait, cancellation).ConfigureAwait(false);
            }

            sent.Add(AskAsync(client, request, cancellation));
        }

        (PlannedRequest, StreamedAnswer)[] outcomes = await Task.WhenAll(sent).ConfigureAwait(false);
        return LoadSummary.Of(outcomes, Stopwatch.GetElapsedTime(start).TotalSeconds);
    }

    /// <summary>So many users, each asking again as soon as it has its answer, until the time is over.</summary>
    public static async Task<LoadSummary> ClosedAsync(CompletionClient client, LoadProfile profile, int users, CancellationToken cancellation)
    {
        long start = Stopwatch.GetTimestamp();
        using IEnumerator<PlannedRequest> plan = (profile with { Seconds = double.MaxValue, Cancelled = 0, Slow = 0 }).Plan().GetEnumerator();
        var outcomes = new List<(PlannedRequest, StreamedAnswer)>();
        await Task.WhenAll(Enumerable.Range(0, users).Select(async _ =>
        {
            while (Stopwatch.GetElapsedTime(start).TotalSeconds < profile.Seconds)
            {
                PlannedRequest request;
                lock (plan)
                {
                    plan.MoveNext();
                    request = plan.Current;
                }

                (PlannedRequest, StreamedAnswer) outcome = await AskAsync(client, request, cancellation).ConfigureAwait(false);
                lock (outcomes)
                {
                    outcomes.Add(outcome);
                }
            }
        })).ConfigureAwait(false);
        return LoadSummary.Of(outcomes, Stopwatch.GetElapsedTime(start).TotalSeconds);
    }

    private static async Task<(PlannedRequest, StreamedAnswer)> AskAsync(CompletionClient client, PlannedRequest request, CancellationToken cancellation) =>
        (request, await client.AskAsync(request.Model, request.Prompt, request.Answer, leaveAfter: request.LeaveAfter, pause: request.IsSlow ? SlowPause : default, cancellation: cancellation).ConfigureAwait(false));
}
