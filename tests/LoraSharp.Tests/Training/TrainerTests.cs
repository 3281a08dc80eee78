using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Training;
using LoraSharp.Training.Checkpoints;

namespace LoraSharp.Tests.Training;

public sealed class TrainerTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("trainer").FullName;
    private readonly Recorder _events = new();

    private static TrainerOptions Options => new() { MaxSteps = 12, LearningRate = 0.05, WarmupSteps = 2, WeightDecay = 0.01, SaveInterval = 5 };

    [Theory]
    [InlineData(1, 8)]
    [InlineData(4, 2)]
    [InlineData(8, 1)]
    public void AccumulationDoesNotMatter(int rows, int microBatches)
    {
        // Twelve rows make one step of eight an epoch.
        double[] expected = Losses(2, 4);
        double[] actual = Losses(rows, microBatches);
        Assert.Equal(expected, actual, (a, b) => Math.Abs(a - b) < 1e-6);
        Assert.True(actual[^1] < actual[0]);

        double[] Losses(int rows, int microBatches)
        {
            Recorder events = new();
            using var model = new ToyModel();
            using var trainer = new Trainer(Setup(model, new ToyBatches(rows, microBatches)) with { Observers = [events], Checkpoints = null }, Options);
            trainer.Run(TestContext.Current.CancellationToken);
            return [.. events.Of<StepCompleted>().Select(s => s.Loss)];
        }
    }

    [Theory]
    [InlineData(OptimizerKind.AdamW)]
    [InlineData(OptimizerKind.Sgd)]
    [InlineData(OptimizerKind.Muon)]
    public void AnInterruptedRunGoesOnBitByBit(OptimizerKind kind)
    {
        TrainerOptions options = Options with { Optimizer = kind, Momentum = 0.9, EmaDecay = 0.9, EvalInterval = 3 };
        float[] expected = Train("whole", options, int.MaxValue);
        Train("parts", options, 4);
        Train("parts", options, 9);
        Assert.Equal(expected, Train("parts", options, int.MaxValue));
        string[] whole = Metrics("whole"), parts = Metrics("parts");
        Assert.Equal(16, whole.Length);
        Assert.Equal(whole, parts);

        float[] Train(string name, TrainerOptions with, int stopAfter)
        {
            using var model = new ToyModel(dropout: 0.3);
            using var metrics = new MetricsFile(Path.Combine(_folder, name + ".jsonl"));
            using var stop = new CancellationTokenSource();
            var store = new CheckpointStore(Path.Combine(_folder, name), 2);
            using var trainer = new Trainer(
                Setup(model, new ToyBatches(2, 2)) with { Checkpoints = store, Observers = [metrics, new StopAfter(stopAfter, stop)], Validation = () => [ToyBatches.Batch(1, 2)] },
                with);
            TrainingResult result = trainer.Run(stop.Token);
            Assert.Equal(stopAfter == int.MaxValue ? TrainingEnd.Completed : TrainingEnd.Interrupted, result.End);
            return model.Values();
        }

        string[] Metrics(string name) => [.. File.ReadLines(Path.Combine(_folder, name + ".jsonl")).Select(line =>
        {
            JsonObject json = JsonNode.Parse(line)!.AsObject();
            json.Remove("tokens_per_second");
            return json.ToJsonString();
        })];
    }

    [Theory]
    [InlineData(12, false)]
    [InlineData(12, true)]
    [InlineData(10, false)]
    public void KilledAfterAnEvaluationItIsWrittenOnce(int step, bool dataEndsFirst)
    {
        // Four epochs of three steps: a source that ends by itself leaves an evaluation after the last checkpoint.
        TrainerOptions options = Options with { MaxSteps = dataEndsFirst ? 40 : 12, SaveInterval = 1, EvalInterval = 5 };
        string[] whole = Train("whole", int.MaxValue);
        Assert.Throws<InvalidOperationException>(() => Train("killed", step));
        Assert.Equal(whole, Train("killed", int.MaxValue));

        string[] Train(string name, int killedAt)
        {
            using var model = new ToyModel();
            string file = Path.Combine(_folder, name + ".jsonl");
            using (var metrics = new MetricsFile(file))
            {
                using var trainer = new Trainer(
                    Setup(model, new ToyBatches(2, 2, epochs: 4)) with
                    {
                        Checkpoints = new CheckpointStore(Path.Combine(_folder, name), 2),
                        Observers = [metrics, new KilledAfterEvaluation(killedAt)],
                        Validation = () => [ToyBatches.Batch(1, 2)],
                    },
                    options);
                trainer.Run(TestContext.Current.CancellationToken);
            }

            return [.. File.ReadLines(file).Where(line => line.Contains("eval_loss", StringComparison.Ordinal))];
        }
    }

    [Fact]
    public void ALossThatIsNoNumberStopsBeforeTheStep()
    {
        using var model = new ToyModel { NaNFrom = 7L << 20 };
        using var trainer = new Trainer(Setup(model, new ToyBatches(2, 2)), Options);
        TrainingDivergedException error = Assert.Throws<TrainingDivergedException>(() => trainer.Run(TestContext.Current.CancellationToken));
        Assert.Equal(8, error.Step);
        Assert.Contains("Step 8", error.Message, StringComparison.Ordinal);
        Assert.Contains("step-00000005", error.Message, StringComparison.Ordinal);
        Assert.Matches(@"toy\.jsonl:\d+ \(loss NaN\)", error.Message);
        Assert.All(model.Values(), v => Assert.True(float.IsFinite(v)));
    }

    [Fact]
    public void OtherSettingsThanTheCheckpointsAreRefused()
    {
        using var model = new ToyModel();
        using (var trainer = new Trainer(Setup(model, new ToyBatches(2, 2)) with { Recipe = new JsonObject { ["lr"] = 1 } }, Options with { MaxSteps = 2 }))
        {
            trainer.Run(TestContext.Current.CancellationToken);
        }

        using var again = new Trainer(Setup(model, new ToyBatches(2, 2)) with { Recipe = new JsonObject { ["lr"] = 2 } }, Options);
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => again.Run(TestContext.Current.CancellationToken));
        Assert.Contains("lr: 1 in the checkpoint, 2 now", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void StopsEarlyAndKeepsTheBest()
    {
        // Validation on a chain that is not trained on gets worse while training gets better.
        using var model = new ToyModel();
        using var trainer = new Trainer(
            Setup(model, new ToyBatches(2, 2)) with { Validation = () => [ToyBatches.Batch(3)] },
            Options with { MaxSteps = 400, LearningRate = 0.3, EvalInterval = 1, EarlyStoppingPatience = 4, LoadBestAtEnd = true, KeepLast = 1 });
        TrainingResult result = trainer.Run(TestContext.Current.CancellationToken);
        Assert.Equal(TrainingEnd.EarlyStopped, result.End);
        Assert.Equal(result.Steps - 4, result.BestStep);
        Assert.Equal(result.BestLoss!.Value, trainer.Evaluate().Loss, 6);
    }

    [Fact]
    public void EveryEpochIsEvaluatedAndTheEndIsOfTheData()
    {
        using var model = new ToyModel();
        using var trainer = new Trainer(
            Setup(model, new ToyBatches(2, 2, epochs: 2)) with { Validation = () => [ToyBatches.Batch(3)] }, Options with { MaxSteps = 0, Epochs = 2 });
        Assert.Equal(6, trainer.TotalSteps);
        trainer.Run(TestContext.Current.CancellationToken);
        Assert.Equal([3, 6], _events.Of<Evaluated>().Select(e => e.Step));
        Assert.Equal([5, 6], _events.Of<CheckpointSaved>().Select(e => e.Step));
        StepCompleted first = _events.Of<StepCompleted>().First();
        Assert.Equal(0, first.LearningRate);
        Assert.True(first.Tokens > 4);
    }

    [Fact]
    public void ASpikeIsReportedWithItsRows()
    {
        LossHistory history = new(3);
        for (int i = 0; i < 20; i++)
        {
            Assert.False(history.IsSpike(1 + (0.1 * (i % 3)), out _));
            history.Add(1 + (0.1 * (i % 3)));
        }

        Assert.True(history.IsSpike(3.4, out double usual));
        Assert.Equal(1.1, usual, 6);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private TrainingSetup Setup(ToyModel model, ToyBatches batches) => new()
    {
        Objective = model,
        Trainable = model.Parameters,
        Batches = batches,
        Observers = [_events],
        Checkpoints = new CheckpointStore(Path.Combine(_folder, "checkpoints"), 2),
    };

    private sealed class Recorder : ITrainingObserver
    {
        private readonly List<TrainingEvent> _all = [];

        public IEnumerable<T> Of<T>() => _all.OfType<T>();

        public void On(TrainingEvent happened) => _all.Add(happened);
    }

    private sealed class KilledAfterEvaluation(long step) : ITrainingObserver
    {
        public void On(TrainingEvent happened)
        {
            if (happened is Evaluated && happened.Step == step)
            {
                throw new InvalidOperationException("killed");
            }
        }
    }

    private sealed class StopAfter(long step, CancellationTokenSource stop) : ITrainingObserver
    {
        public void On(TrainingEvent happened)
        {
            if (happened is StepCompleted && happened.Step == step)
            {
                stop.Cancel();
            }
        }
    }
}
