using System.Diagnostics.Metrics;
using LoraSharp.Inference;

namespace LoraSharp.Serving;

/// <summary>
/// What the engine tells of itself, as instruments of <see cref="Meter"/>: exported by whoever listens (OpenTelemetry, a
/// <see cref="MeterListener"/>). Counters and histograms carry the tag <c>adapter</c>, which is <c>base</c> without one.
/// </summary>
public sealed class EngineMetrics : IDisposable
{
    /// <summary>Name of the meter.</summary>
    public const string MeterName = "LoraSharp.Serving";

    /// <summary>Counter, tokens: generated.</summary>
    public const string GeneratedTokens = "lorasharp.serving.tokens.generated";

    /// <summary>Counter, tokens: of prompts that were computed (again after a preemption, too).</summary>
    public const string PromptTokens = "lorasharp.serving.tokens.prompt";

    /// <summary>Counter, tokens: of prompts that were found in the cache and not computed.</summary>
    public const string CachedTokens = "lorasharp.serving.tokens.cached";

    /// <summary>Counter, requests that ended; tag <c>outcome</c>: stop, length, cancelled, failed, refused.</summary>
    public const string Requests = "lorasharp.serving.requests";

    /// <summary>Histogram, seconds from arrival to admission.</summary>
    public const string QueueTime = "lorasharp.serving.queue_time";

    /// <summary>Histogram, seconds from arrival to the first token.</summary>
    public const string TimeToFirstToken = "lorasharp.serving.time_to_first_token";

    /// <summary>Histogram, seconds between two tokens of one request.</summary>
    public const string InterTokenTime = "lorasharp.serving.inter_token_time";

    /// <summary>Histogram, seconds from arrival to the last token.</summary>
    public const string RequestTime = "lorasharp.serving.request_time";

    /// <summary>Histogram, seconds of one step of the engine.</summary>
    public const string StepTime = "lorasharp.serving.step_time";

    /// <summary>Histogram, sequences that took part in a step.</summary>
    public const string StepBatch = "lorasharp.serving.step_batch";

    /// <summary>Counter: sequences that had to give up their blocks.</summary>
    public const string Preemptions = "lorasharp.serving.preemptions";

    /// <summary>Gauge: requests that wait.</summary>
    public const string Waiting = "lorasharp.serving.requests.waiting";

    /// <summary>Gauge: sequences that run.</summary>
    public const string Running = "lorasharp.serving.requests.running";

    /// <summary>Gauge, blocks of the key-value cache; tag <c>state</c>: used, cached, free.</summary>
    public const string KeyValueBlocks = "lorasharp.serving.kv.blocks";

    /// <summary>Gauge, 0 to 1: share of the blocks that sequences use.</summary>
    public const string KeyValueUse = "lorasharp.serving.kv.use";

    /// <summary>Gauge, registered adapters; tag <c>place</c>: device, host, disk.</summary>
    public const string Adapters = "lorasharp.serving.adapters";

    /// <summary>Gauge, bytes of adapters; tag <c>place</c>: device, host.</summary>
    public const string AdapterBytes = "lorasharp.serving.adapters.bytes";

    /// <summary>Counter, loads of adapters; tag <c>outcome</c>: loaded, failed.</summary>
    public const string AdapterLoads = "lorasharp.serving.adapters.loads";

    /// <summary>Gauge, 0 to 1: share of the engine's time that a training beside serving took lately.</summary>
    public const string TrainingShare = "lorasharp.serving.training.share";

    private readonly TimeProvider _clock;
    private readonly Counter<long> _generated;
    private readonly Counter<long> _prompt;
    private readonly Counter<long> _cached;
    private readonly Counter<long> _requests;
    private readonly Counter<long> _preemptions;
    private readonly Counter<long> _loads;
    private readonly Histogram<double> _queueTime;
    private readonly Histogram<double> _firstToken;
    private readonly Histogram<double> _interToken;
    private readonly Histogram<double> _requestTime;
    private readonly Histogram<double> _stepTime;
    private readonly Histogram<int> _stepBatch;

    internal EngineMetrics(Func<EngineStatus> status, TimeProvider clock)
    {
        _clock = clock;
        Meter = new Meter(MeterName);
        double[] seconds = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60];
        _generated = Meter.CreateCounter<long>(GeneratedTokens, "{token}", "Tokens generated.");
        _prompt = Meter.CreateCounter<long>(PromptTokens, "{token}", "Prompt tokens computed.");
        _cached = Meter.CreateCounter<long>(CachedTokens, "{token}", "Prompt tokens found in the cache.");
        _requests = Meter.CreateCounter<long>(Requests, "{request}", "Requests that ended.");
        _preemptions = Meter.CreateCounter<long>(Preemptions, "{sequence}", "Sequences that gave up their blocks.");
        _loads = Meter.CreateCounter<long>(AdapterLoads, "{adapter}", "Loads of adapters.");
        _queueTime = Seconds(QueueTime, "From arrival to admission.");
        _firstToken = Seconds(TimeToFirstToken, "From arrival to the first token.");
        _interToken = Seconds(InterTokenTime, "Between two tokens of one request.");
        _requestTime = Seconds(RequestTime, "From arrival to the last token.");
        _stepTime = Seconds(StepTime, "One step of the engine.");
        _stepBatch = Meter.CreateHistogram<int>(StepBatch, "{sequence}", "Sequences that took part in a step.");
        Meter.CreateObservableGauge(Waiting, () => status().Waiting, "{request}", "Requests that wait.");
        Meter.CreateObservableGauge(Running, () => status().Running, "{request}", "Sequences that run.");
        Meter.CreateObservableGauge(KeyValueUse, () => status().Blocks is { Total: > 0 } b ? (double)b.Used / b.Total : 0, "1", "Share of the blocks that sequences use.");
        Meter.CreateObservableGauge(TrainingShare, () => status().TrainingShare, "1", "Share of the engine's time that training took.");
        Meter.CreateObservableGauge(KeyValueBlocks, () => Blocks(status().Blocks), "{block}", "Blocks of the key-value cache.");
        Meter.CreateObservableGauge(Adapters, () => Places(status().Adapters), "{adapter}", "Registered adapters by place.");
        Meter.CreateObservableGauge(AdapterBytes, () => Bytes(status().Adapters), "By", "Memory of adapters by place.");

        Histogram<double> Seconds(string name, string description) =>
            Meter.CreateHistogram(name, "s", description, advice: new InstrumentAdvice<double> { HistogramBucketBoundaries = seconds });
    }

    /// <summary>The engine's own meter.</summary>
    public Meter Meter { get; }

    /// <inheritdoc/>
    public void Dispose() => Meter.Dispose();

    internal long Now => _clock.GetTimestamp();

    internal TimeSpan ElapsedSince(long timestamp) => _clock.GetElapsedTime(timestamp);

    internal void Arrived(RunningSequence sequence) => sequence.Times.Arrived = Now;

    internal void Refused(InferenceRequest request) => _requests.Add(1, Tag(request), new("outcome", "refused"));

    internal void Admitted(RunningSequence sequence)
    {
        _cached.Add(sequence.Blocks.Computed, Tag(sequence.Request));
        if (sequence.Times.Admitted == 0)
        {
            sequence.Times.Admitted = Now;
            _queueTime.Record(Since(sequence.Times.Arrived), Tag(sequence.Request));
        }
    }

    internal void Computed(RunningSequence sequence, int promptTokens) => _prompt.Add(promptTokens, Tag(sequence.Request));

    internal void Generated(RunningSequence sequence)
    {
        RequestTimes times = sequence.Times;
        KeyValuePair<string, object?> adapter = Tag(sequence.Request);
        _generated.Add(1, adapter);
        if (times.FirstToken == 0)
        {
            times.FirstToken = Now;
            _firstToken.Record(Since(times.Arrived), adapter);
        }
        else
        {
            _interToken.Record(Since(times.LastToken), adapter);
        }

        times.LastToken = Now;
    }

    internal void Ended(RunningSequence sequence)
    {
        string outcome = sequence.Error switch
        {
            OperationCanceledException => "cancelled",
            not null => "failed",
            _ => sequence.Finish == FinishReason.Stop ? "stop" : "length",
        };
        _requests.Add(1, Tag(sequence.Request), new("outcome", outcome));
        if (sequence.Error is null)
        {
            _requestTime.Record(Since(sequence.Times.Arrived), Tag(sequence.Request));
        }
    }

    internal void Preempted(long count) => _preemptions.Add(count);

    internal void Step(long started, int batch)
    {
        _stepTime.Record(Since(started));
        _stepBatch.Record(batch);
    }

    internal void AdapterLoad(bool loaded) => _loads.Add(1, new KeyValuePair<string, object?>("outcome", loaded ? "loaded" : "failed"));

    private double Since(long timestamp) => ElapsedSince(timestamp).TotalSeconds;

    private static KeyValuePair<string, object?> Tag(InferenceRequest request) => new("adapter", request.Adapter ?? "base");

    private static IEnumerable<Measurement<int>> Blocks(BlockUse use) =>
    [
        new(use.Used, new KeyValuePair<string, object?>("state", "used")),
        new(use.Cached, new KeyValuePair<string, object?>("state", "cached")),
        new(use.Total - use.Used - use.Cached, new KeyValuePair<string, object?>("state", "free")),
    ];

    private static IEnumerable<Measurement<int>> Places(AdapterUse use) =>
    [
        new(use.OnDevice, new KeyValuePair<string, object?>("place", "device")),
        new(use.OnHost, new KeyValuePair<string, object?>("place", "host")),
        new(use.OnDisk, new KeyValuePair<string, object?>("place", "disk")),
    ];

    private static IEnumerable<Measurement<long>> Bytes(AdapterUse use) =>
    [
        new(use.DeviceBytes, new KeyValuePair<string, object?>("place", "device")),
        new(use.HostBytes, new KeyValuePair<string, object?>("place", "host")),
    ];
}
