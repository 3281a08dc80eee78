using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Globalization;
using LoraSharp.Server.Access;

namespace LoraSharp.Server.Telemetry;

/// <summary>
/// Meter and activity source <c>LoraSharp.Server</c>: requests as their senders see them, under OpenTelemetry's names for
/// generative models where it has some (semantic conventions of GenAI, metrics of model servers). What the engine does, it tells itself.
/// </summary>
internal sealed class ServerMetrics : IDisposable
{
    /// <summary>The meter's and the source's name.</summary>
    public const string Name = "LoraSharp.Server";

    /// <summary><c>gen_ai.provider.name</c>: whose API it is.</summary>
    public const string Provider = "lorasharp";

    private const int MostAdapters = 100;
    private static readonly double[] Seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

    // The boundaries that the conventions ask for.
    private static readonly double[] RequestSeconds = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
    private static readonly double[] FirstTokenSeconds = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
    private static readonly double[] OutputTokenSeconds = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

    private readonly ActivitySource _activities = new(Name);
    private readonly Meter _meter = new(Name);
    private readonly BoundedNames _models = new(MostAdapters);
    private readonly Counter<long> _requests;
    private readonly Histogram<double> _duration;
    private readonly Histogram<double> _request;
    private readonly Histogram<double> _firstToken;
    private readonly Histogram<double> _outputToken;
    private readonly RecentRate _rate = new();

    public ServerMetrics(ServerState state)
    {
        _requests = _meter.CreateCounter<long>("lorasharp.requests", null, "Requests that were answered, by route, model and status.");
        _duration = _meter.CreateHistogram("lorasharp.request.duration", "s", "From a request's coming to its answer's end.", null, new InstrumentAdvice<double> { HistogramBucketBoundaries = Seconds });
        _request = Histogram("gen_ai.server.request.duration", RequestSeconds, "From a request's coming to its answer's end.");
        _firstToken = Histogram("gen_ai.server.time_to_first_token", FirstTokenSeconds, "From a request's coming to its first token.");
        _outputToken = Histogram("gen_ai.server.time_per_output_token", OutputTokenSeconds, "Mean time of a token after the first, of each generated sequence.");
        _meter.CreateObservableGauge("lorasharp.tokens_per_second", () => _rate.PerSecond(Stopwatch.GetTimestamp()), null, "Tokens generated a second, over the last ten.");
        _meter.CreateObservableGauge("lorasharp.requests_under_way", () => state.UnderWay, null, "Requests that compute or wait.");
        _meter.CreateObservableGauge("lorasharp.draining", () => state.IsDraining ? 1 : 0, null, "1 while new requests are refused.");
    }

    /// <summary>Tokens generated a second, over the last ten.</summary>
    public double TokensPerSecond => _rate.PerSecond(Stopwatch.GetTimestamp());

    /// <summary>A token was generated.</summary>
    public void Generated() => _rate.Add(Stopwatch.GetTimestamp());

    /// <summary>A span of a trace, named and tagged after OpenTelemetry's conventions for generative models.</summary>
    public Activity? Start(RequestScope scope, int promptTokens) => _activities.StartActivity($"{scope.Operation} {_models.Of(scope.Model!)}", ActivityKind.Internal)
        ?.SetTag("gen_ai.operation.name", scope.Operation).SetTag("gen_ai.provider.name", Provider).SetTag("gen_ai.request.model", scope.Model).SetTag("gen_ai.response.model", scope.Model)
        .SetTag("gen_ai.response.id", scope.Id).SetTag("gen_ai.usage.input_tokens", promptTokens);

    /// <summary>A sequence's tokens after the first took so long on average.</summary>
    public void OutputTokens(RequestScope scope, TimeSpan each) => _outputToken.Record(each.TotalSeconds, Tags(scope));

    public void Finished(RouteMark mark, RequestScope? scope, int status)
    {
        if (mark.Access == RouteAccess.Open)
        {
            return;
        }

        var tags = new TagList { { "route", scope?.Route ?? "refused" }, { "model", scope?.Model is { } model ? _models.Of(model) : "none" }, { "status", status } };
        _requests.Add(1, tags);
        if (scope is null || !mark.Computes)
        {
            return;
        }

        _duration.Record(scope.Elapsed.TotalSeconds, tags);
        if (scope.Model is null)
        {
            return;
        }

        TagList conventional = Tags(scope);
        if (scope.FirstToken is { } first && status < 400 && scope.Fault is null)
        {
            _firstToken.Record(first.TotalSeconds, conventional);
        }

        if (status >= 400 || scope.Fault is not null)
        {
            conventional.Add("error.type", scope.Fault ?? status.ToString(CultureInfo.InvariantCulture));
        }

        _request.Record(scope.Elapsed.TotalSeconds, conventional);
    }

    public void Dispose()
    {
        _meter.Dispose();
        _activities.Dispose();
    }

    private TagList Tags(RequestScope scope)
    {
        string model = _models.Of(scope.Model!);
        return new TagList { { "gen_ai.operation.name", scope.Operation }, { "gen_ai.provider.name", Provider }, { "gen_ai.request.model", model }, { "gen_ai.response.model", model } };
    }

    private Histogram<double> Histogram(string name, double[] boundaries, string description) =>
        _meter.CreateHistogram(name, "s", description, null, new InstrumentAdvice<double> { HistogramBucketBoundaries = boundaries });
}
