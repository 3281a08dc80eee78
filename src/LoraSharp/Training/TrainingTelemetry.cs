using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Globalization;

namespace LoraSharp.Training;

/// <summary>
/// A run as OpenTelemetry sees it: a meter and an activity source, both named <see cref="SourceName"/>, that any exporter of the
/// host application may listen to. Without a listener it costs next to nothing.
/// </summary>
/// <remarks>
/// Metrics: <c>lorasharp.training.steps</c>, <c>.tokens</c>, <c>.checkpoints</c>, <c>.loss_spikes</c> (counters), <c>.step.duration</c>
/// (histogram, seconds), <c>.loss</c>, <c>.gradient_norm</c>, <c>.learning_rate</c>, <c>.eval.loss</c>, <c>.objective</c> (gauges; the
/// last with a tag <c>metric</c>). Traces: a span <c>training</c> with a child for each <c>step</c>, <c>evaluation</c> and
/// <c>checkpoint</c>, which begins where the one before ended.
/// </remarks>
public sealed class TrainingTelemetry : ITrainingObserver, IDisposable
{
    /// <summary>Name of the meter and of the activity source.</summary>
    public const string SourceName = "LoraSharp.Training";

    private readonly ActivitySource _source = new(SourceName);
    private readonly Meter _meter;
    private readonly Counter<long> _steps, _tokens, _checkpoints, _spikes;
    private readonly Histogram<double> _duration;
    private readonly Gauge<double> _loss, _norm, _rate, _evalLoss, _objective;
    private readonly KeyValuePair<string, object?>[] _tags;
    private readonly TimeProvider _clock;
    private Activity? _run;
    private DateTimeOffset _last;

    /// <summary>Creates the instruments.</summary>
    /// <param name="tags">Stand on the run's span and on every measurement, e.g. <c>run</c> and <c>model</c>.</param>
    /// <param name="clock">For durations and the spans' ends.</param>
    public TrainingTelemetry(IEnumerable<KeyValuePair<string, object?>>? tags = null, TimeProvider? clock = null)
    {
        _tags = [.. tags ?? []];
        _clock = clock ?? TimeProvider.System;
        _meter = new Meter(SourceName, typeof(TrainingTelemetry).Assembly.GetName().Version?.ToString(3), _tags);
        _steps = _meter.CreateCounter<long>("lorasharp.training.steps", "{step}", "Optimizer steps made");
        _tokens = _meter.CreateCounter<long>("lorasharp.training.tokens", "{token}", "Tokens trained on, padding aside");
        _checkpoints = _meter.CreateCounter<long>("lorasharp.training.checkpoints", "{checkpoint}", "Checkpoints written");
        _spikes = _meter.CreateCounter<long>("lorasharp.training.loss_spikes", "{step}", "Steps with a loss far above the usual");
        _duration = _meter.CreateHistogram<double>("lorasharp.training.step.duration", "s", "Time of an optimizer step");
        _loss = _meter.CreateGauge<double>("lorasharp.training.loss", description: "Loss of the last step");
        _norm = _meter.CreateGauge<double>("lorasharp.training.gradient_norm", description: "Gradient norm of the last step before clipping");
        _rate = _meter.CreateGauge<double>("lorasharp.training.learning_rate", description: "Learning rate of the last step");
        _evalLoss = _meter.CreateGauge<double>("lorasharp.training.eval.loss", description: "Loss of the last evaluation");
        _objective = _meter.CreateGauge<double>("lorasharp.training.objective", description: "The objective's own numbers, by the tag metric");
    }

    /// <inheritdoc/>
    public void On(TrainingEvent happened)
    {
        DateTimeOffset now = _clock.GetUtcNow();
        switch (happened)
        {
            case TrainingStarted started:
                _run = _source.StartActivity("training", ActivityKind.Internal, default(ActivityContext), _tags);
                _run?.SetTag("training.total_steps", started.TotalSteps).SetTag("training.trainable_parameters", started.TrainableParameters).SetTag("training.resumed_from_step", started.Step);
                break;
            case StepCompleted step:
                Measure(step, (now - _last).TotalSeconds);
                using (Activity? span = Span("step", step.Step, now))
                {
                    span?.SetTag("training.loss", step.Loss).SetTag("training.tokens", step.Tokens);
                }

                break;
            case Evaluated evaluated:
                _evalLoss.Record(evaluated.Loss);
                Span("evaluation", evaluated.Step, now)?.SetTag("training.loss", evaluated.Loss).Dispose();
                break;
            case CheckpointSaved saved:
                _checkpoints.Add(1);
                Span("checkpoint", saved.Step, now)?.SetTag("training.checkpoint", saved.Folder).Dispose();
                break;
            case LossSpiked spiked:
                _spikes.Add(1);
                _run?.AddEvent(new ActivityEvent("loss spike", now, new ActivityTagsCollection { ["training.step"] = spiked.Step, ["training.loss"] = spiked.Loss, ["training.rows"] = string.Join(", ", spiked.Rows) }));
                return;
            case TrainingEnded ended:
                _run?.SetTag("training.end", ended.End.ToString().ToLower(CultureInfo.InvariantCulture));
                _run?.Dispose();
                _run = null;
                break;
        }

        _last = now;
    }

    /// <summary>Ends the span of a run that failed, and the instruments.</summary>
    public void Dispose()
    {
        _run?.SetStatus(ActivityStatusCode.Error);
        _run?.Dispose();
        _source.Dispose();
        _meter.Dispose();
    }

    private void Measure(StepCompleted step, double seconds)
    {
        _steps.Add(1);
        _tokens.Add(step.Tokens);
        _duration.Record(seconds);
        _loss.Record(step.Loss);
        _norm.Record(step.GradNorm);
        _rate.Record(step.LearningRate);
        foreach ((string name, double value) in step.Metrics)
        {
            _objective.Record(value, new KeyValuePair<string, object?>("metric", name));
        }
    }

    private Activity? Span(string name, long step, DateTimeOffset end) => _run is null ? null
        : _source.StartActivity(name, ActivityKind.Internal, _run.Context, [new("training.step", step)], startTime: _last)?.SetEndTime(end.UtcDateTime);
}
