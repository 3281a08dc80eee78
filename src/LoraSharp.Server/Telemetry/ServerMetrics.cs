using System.Diagnostics;
using System.Diagnostics.Metrics;
using LoraSharp.Server.Access;

namespace LoraSharp.Server.Telemetry;

/// <summary>Meter and activity source <c>LoraSharp.Server</c>: requests as their senders see them. What the engine does, it tells itself.</summary>
internal sealed class ServerMetrics : IDisposable
{
    /// <summary>The meter's and the source's name.</summary>
    public const string Name = "LoraSharp.Server";

    private const int MostAdapters = 100;
    private static readonly double[] Seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

    private readonly ActivitySource _activities = new(Name);
    private readonly Meter _meter = new(Name);
    private readonly BoundedNames _models = new(MostAdapters);
    private readonly Counter<long> _requests;
    private readonly Histogram<double> _duration;
    private readonly RecentRate _rate = new();

    public ServerMetrics(ServerState state)
    {
        _requests = _meter.CreateCounter<long>("lorasharp.requests", null, "Requests that were answered, by route, model and status.");
        _duration = _meter.CreateHistogram("lorasharp.request.duration", "s", "From a request's coming to its answer's end.", null, new InstrumentAdvice<double> { HistogramBucketBoundaries = Seconds });
        _meter.CreateObservableGauge("lorasharp.tokens_per_second", () => _rate.PerSecond(Stopwatch.GetTimestamp()), null, "Tokens generated a second, over the last ten.");
        _meter.CreateObservableGauge("lorasharp.requests_under_way", () => state.UnderWay, null, "Requests that compute or wait.");
        _meter.CreateObservableGauge("lorasharp.draining", () => state.IsDraining ? 1 : 0, null, "1 while new requests are refused.");
    }

    /// <summary>Tokens generated a second, over the last ten.</summary>
    public double TokensPerSecond => _rate.PerSecond(Stopwatch.GetTimestamp());

    /// <summary>A token was generated.</summary>
    public void Generated() => _rate.Add(Stopwatch.GetTimestamp());

    /// <summary>A span of a trace, named and tagged after OpenTelemetry's conventions for generative models.</summary>
    public Activity? StartGeneration(string model, int promptTokens) => _activities.StartActivity("generate " + _models.Of(model), ActivityKind.Internal)
        ?.SetTag("gen_ai.operation.name", "text_completion").SetTag("gen_ai.request.model", model).SetTag("gen_ai.usage.input_tokens", promptTokens);

    public void Finished(RouteMark mark, RequestScope? scope, int status)
    {
        if (mark.Access == RouteAccess.Open)
        {
            return;
        }

        var tags = new TagList { { "route", scope?.Route ?? "refused" }, { "model", scope?.Model is { } model ? _models.Of(model) : "none" }, { "status", status } };
        _requests.Add(1, tags);
        if (scope is not null && mark.Computes)
        {
            _duration.Record(scope.Elapsed.TotalSeconds, tags);
        }
    }

    public void Dispose()
    {
        _meter.Dispose();
        _activities.Dispose();
    }
}
