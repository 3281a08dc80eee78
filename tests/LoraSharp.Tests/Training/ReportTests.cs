using System.Buffers.Binary;
using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Text;
using LoraSharp.Training;
using LoraSharp.Training.Checkpoints;
using Tensorboard;

namespace LoraSharp.Tests.Training;

/// <summary>What a run tells the outside: TensorBoard's files and OpenTelemetry's instruments.</summary>
public sealed class ReportTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-report-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void The_checksum_is_tfrecords()
    {
        // CRC-32C of "123456789" is E3069283 (RFC 3720's polynomial, the catalogues' check value).
        uint rotated = (0xE3069283u >> 15) | (0xE3069283u << 17);
        Assert.Equal(unchecked(rotated + 0xA282EAD8), TensorBoardEvents.MaskedCrc(Encoding.ASCII.GetBytes("123456789")));
    }

    [Fact]
    public void Event_files_hold_every_scalar_and_a_mark_where_a_sitting_goes_on()
    {
        using (var events = new TensorBoardEvents(_folder))
        {
            Train(events, stopAfter: 3);
        }

        using (var events = new TensorBoardEvents(_folder))
        {
            Train(events);
        }

        string[] files = [.. Directory.GetFiles(_folder, "events.out.tfevents.*").Order(StringComparer.Ordinal)];
        Assert.Equal(2, files.Length);
        Event[] first = [.. Read(files[0])], second = [.. Read(files[1])];
        Assert.All([first, second], f => Assert.Equal("brain.Event:2", f[0].FileVersion));
        Assert.Equal(1, first[1].Step);
        Assert.Equal((SessionLog.Types.SessionStatus.Start, 4), (second[1].SessionLog.Status, second[1].Step));
        Assert.Equal([1, 2, 3], Steps(first, "train/loss"));
        Assert.Equal([4, 5, 6], Steps(second, "train/loss"));
        Assert.Equal([2L], Steps(first, "eval/loss"));
        Assert.Equal([4L, 6], Steps(second, "eval/loss"));
        Assert.Equal([4L, 5, 6], Steps(second, "train/learning_rate"));
        Assert.All(second.Where(e => e.Summary is not null).SelectMany(e => e.Summary.Value), v => Assert.True(float.IsFinite(v.SimpleValue)));
    }

    [Fact]
    public void Meters_and_spans_tell_of_steps_evaluations_and_checkpoints()
    {
        var spans = new List<Activity>();
        using var listener = new ActivityListener
        {
            ShouldListenTo = s => s.Name == TrainingTelemetry.SourceName,
            Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllData,
            ActivityStopped = spans.Add,
        };
        ActivitySource.AddActivityListener(listener);
        var measured = new Dictionary<string, double>();
        using var meters = new MeterListener
        {
            InstrumentPublished = (instrument, self) =>
            {
                if (instrument.Meter.Name == TrainingTelemetry.SourceName && instrument.Meter.Tags!.Contains(new("lorasharp.run", "mine")))
                {
                    self.EnableMeasurementEvents(instrument);
                }
            },
        };
        meters.SetMeasurementEventCallback<long>((instrument, value, _, _) => measured[instrument.Name] = measured.GetValueOrDefault(instrument.Name) + value);
        meters.SetMeasurementEventCallback<double>((instrument, value, _, _) => measured[instrument.Name] = value);
        meters.Start();

        var steps = new Collected();
        using (var telemetry = new TrainingTelemetry([new("lorasharp.run", "mine")]))
        {
            Train(telemetry, steps);
        }

        Assert.Equal(6, measured["lorasharp.training.steps"]);
        Assert.Equal(steps.Of<StepCompleted>().Sum(s => s.Tokens), measured["lorasharp.training.tokens"]);
        Assert.Equal(steps.Of<StepCompleted>().Last().Loss, measured["lorasharp.training.loss"]);
        Assert.Equal(steps.Of<Evaluated>().Last().Loss, measured["lorasharp.training.eval.loss"]);
        Assert.True(measured["lorasharp.training.step.duration"] > 0);
        Activity run = Assert.Single(spans, s => s.OperationName == "training" && s.TagObjects.Contains(new("lorasharp.run", "mine")));
        Activity[] children = [.. spans.Where(s => s.TraceId == run.TraceId && s != run)];
        Assert.All(children, c => Assert.Equal(run.SpanId, c.ParentSpanId));
        Assert.Equal(6, children.Count(c => c.OperationName == "step"));
        Assert.Equal(3, children.Count(c => c.OperationName == "evaluation"));
        Assert.Equal(steps.Of<CheckpointSaved>().Count(), children.Count(c => c.OperationName == "checkpoint"));
        Assert.Equal("completed", run.GetTagItem("training.end"));
    }

    private void Train(ITrainingObserver observer, ITrainingObserver? second = null, int stopAfter = int.MaxValue)
    {
        using var model = new ToyModel();
        using var stop = new CancellationTokenSource();
        using var trainer = new Trainer(
            new TrainingSetup
            {
                Objective = model,
                Trainable = model.Parameters,
                Batches = new ToyBatches(2, 2),
                Validation = () => [ToyBatches.Batch(1)],
                Checkpoints = new CheckpointStore(Path.Combine(_folder, "checkpoints"), 2),
                Observers = [observer, .. second is null ? Array.Empty<ITrainingObserver>() : [second], new Stop(stopAfter, stop)],
            },
            new TrainerOptions { MaxSteps = 6, LearningRate = 0.05, SaveInterval = 3, EvalInterval = 2 });
        trainer.Run(stop.Token);
    }

    private static long[] Steps(IEnumerable<Event> events, string tag) => [.. events.Where(e => e.Summary?.Value.Any(v => v.Tag == tag) == true).Select(e => e.Step)];

    // Written from the format's description, not from the writer.
    private static IEnumerable<Event> Read(string path)
    {
        byte[] all = File.ReadAllBytes(path);
        for (int at = 0; at < all.Length;)
        {
            int length = checked((int)BinaryPrimitives.ReadUInt64LittleEndian(all.AsSpan(at)));
            Assert.Equal(TensorBoardEvents.MaskedCrc(all.AsSpan(at, 8)), BinaryPrimitives.ReadUInt32LittleEndian(all.AsSpan(at + 8)));
            Assert.Equal(TensorBoardEvents.MaskedCrc(all.AsSpan(at + 12, length)), BinaryPrimitives.ReadUInt32LittleEndian(all.AsSpan(at + 12 + length)));
            yield return Event.Parser.ParseFrom(all, at + 12, length);
            at += 16 + length;
        }
    }

    private sealed class Collected : ITrainingObserver
    {
        private readonly List<TrainingEvent> _all = [];

        public IEnumerable<T> Of<T>() => _all.OfType<T>();

        public void On(TrainingEvent happened) => _all.Add(happened);
    }

    private sealed class Stop(int after, CancellationTokenSource stop) : ITrainingObserver
    {
        public void On(TrainingEvent happened)
        {
            if (happened is StepCompleted { Step: var done } && done == after)
            {
                stop.Cancel();
            }
        }
    }
}
