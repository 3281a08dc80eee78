using System.Diagnostics;
using System.Diagnostics.Metrics;
using LoraSharp.Server.Access;
using LoraSharp.Serving;

namespace LoraSharp.Server.Telemetry;

/// <summary>Meter and activity source <c>LoraSharp.Server</c>: requests as their senders see them.</summary>
internal sealed class ServerMetrics : IDisposable
{
    /// <summary>The meter's and the source's name.</summary>
    public const string Name = "LoraSharp.Server";

    private const int MostAdapters = 100;
    private static readonly double[] Seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
    private static readonly double[] BetweenTokens = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5];

    private readonly ActivitySource _activities = new(Name);
    private readonly Meter _meter = new(Name);
    private readonly BoundedNames _models = new(MostAdapters);
    private readonly Counter<long> _requests;
    private readonly Histogram<double> _duration;
    private readonly Histogram<double> _firstToken;
    private readonly Histogram<double> _nextToken;
    private readonly Counter<long> _prompted;
    private readonly Counter<long> _generated;
    private readonly RecentRate _rate = new();

    public ServerMetrics(InferenceEngine engine, ServerState state)
    {
        _requests = _meter.CreateCounter<long>("lorasharp.requests", null, "Requests that were answered, by route, model and status.");
        _duration = _meter.CreateHistogram("lorasharp.request.duration", "s", "From a request's coming to its answer's end.", null, new InstrumentAdvice<double> { HistogramBucketBoundaries = Seconds });
        _firstToken = _meter.CreateHistogram("lorasharp.time_to_first_token", "s", "From a request's coming to its first token.", null, new InstrumentAdvice<double> { HistogramBucketBoundaries = Seconds });
        _nextToken = _meter.CreateHistogram("lorasharp.inter_token_time", "s", "Between two tokens of one answer.", null, new InstrumentAdvice<double> { HistogramBucketBoundaries = BetweenTokens });
        _prompted = _meter.CreateCounter<long>("lorasharp.prompt_tokens", null, "Prompt tokens let in, by model.");
        _generated = _meter.CreateCounter<long>("lorasharp.generated_tokens", null, "Tokens generated, by model.");
        _meter.CreateObservableGauge("lorasharp.tokens_per_second", () => _rate.PerSecond(Stopwatch.GetTimestamp()), null, "Tokens generated a second, over the last ten.");
        _meter.CreateObservableGauge("lorasharp.requests_under_way", () => state.UnderWay, null, "Requests that compute or wait.");
        _meter.CreateObservableGauge("lorasharp.draining", () => state.IsDraining ? 1 : 0, null, "1 while new requests are refused.");
        _meter.CreateObservableGauge("lorasharp.sequences", () => Sequences(engine), null, "Sequences in the engine, running and waiting.");
        _meter.CreateObservableGauge("lorasharp.cached_tokens", () => engine.Status.CachedTokens, null, "Tokens held in key-value caches.");
        _meter.CreateObservableCounter("lorasharp.steps", () => engine.Status.Steps, null, "Forward passes.");
        _meter.CreateObservableGauge("lorasharp.adapters", () => Adapters(engine), null, "Registered adapters by where they are.");
    }

    /// <summary>Tokens generated a second, over the last ten.</summary>
    public double TokensPerSecond => _rate.PerSecond(Stopwatch.GetTimestamp());

    public void Prompted(string model, int tokens) => _prompted.Add(tokens, Model(model));

    public void FirstToken(string model, TimeSpan time)
    {
        _firstToken.Record(time.TotalSeconds, Model(model));
        Generated(model);
    }

    public void NextToken(string model, TimeSpan time)
    {
        _nextToken.Record(time.TotalSeconds, Model(model));
        Generated(model);
    }

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

    private void Generated(string model)
    {
        _generated.Add(1, Model(model));
        _rate.Add(Stopwatch.GetTimestamp());
    }

    private KeyValuePair<string, object?> Model(string model) => new("model", _models.Of(model));

    private static Measurement<long>[] Sequences(InferenceEngine engine)
    {
        EngineStatus status = engine.Status;
        return [new(status.Running, new KeyValuePair<string, object?>("state", "running")), new(status.Waiting, new KeyValuePair<string, object?>("state", "waiting"))];
    }

    private static Measurement<long>[] Adapters(InferenceEngine engine)
    {
        IReadOnlyList<AdapterInfo> adapters = engine.Adapters;
        int loaded = adapters.Count(a => a.IsLoaded);
        return [new(loaded, new KeyValuePair<string, object?>("place", "memory")), new(adapters.Count - loaded, new KeyValuePair<string, object?>("place", "disk"))];
    }
}
