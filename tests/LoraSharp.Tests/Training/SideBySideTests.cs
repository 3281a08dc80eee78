using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using LoraSharp.Training.Sweeps;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

public sealed class SideBySideTests
{
    private const int Steps = 4;

    private static SweepTrial[] Trials =>
    [
        Trial("r2", 2, "all-linear", 5e-3),
        Trial("r8-qv", 8, ".*(q|v)_proj", 2e-3),
        Trial("r4-rs", 4, ".*down_proj", 1e-2, rslora: true),
        Trial("r4-dora", 4, ".*(q|v)_proj", 5e-3, dora: true),

        // Neighbours of one rank share batched products, also where they differ in scale and one of them lacks the layer.
        Trial("r4-a", 4, ".*(q|v)_proj", 5e-3),
        Trial("r4-b", 4, ".*(q|k|v)_proj", 2e-3, alpha: 16),
        Trial("r4-c", 4, ".*q_proj", 1e-2),
    ];

    [Theory]
    [InlineData(8, GradientCheckpointing.Off)]
    [InlineData(0, GradientCheckpointing.Off)]
    [InlineData(3, GradientCheckpointing.On)]
    public void EachTrialEqualsItsSingleRun(int atOnce, GradientCheckpointing recompute)
    {
        SweepTrial[] trials = [.. Trials.Select(t => t with { Training = t.Training with { GradientCheckpointing = recompute } })];
        using var source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        using var together = new SideBySideTrainer(model, adapters, trials, new SweepOptions { Steps = Steps, AtOnce = atOnce });
        using var batches = new Rows();
        IReadOnlyList<TrialResult> results = together.Run(batches, () => [new Rows().NextStep()[0]], cancellation: TestContext.Current.CancellationToken);
        foreach (TrialResult result in results)
        {
            (double[] losses, double evalLoss, long parameters) = Alone(result.Trial);
            Assert.Equal(losses, result.Losses, (a, b) => Math.Abs(a - b) < 1e-5);
            Assert.Equal(evalLoss, result.EvalLosses[Steps], 5);
            Assert.Equal(parameters, result.TrainableParameters);
        }
    }

    [Fact]
    public void TheWorseHalfIsTakenOut()
    {
        using var source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        using var together = new SideBySideTrainer(model, adapters, Trials[..4], new SweepOptions { Steps = Steps, HalveEvery = 1 });
        using var batches = new Rows();
        IReadOnlyList<TrialResult> results = together.Run(batches, () => new Rows().NextStep(), cancellation: TestContext.Current.CancellationToken);
        Assert.Equal([1, 1, 2, 4], results.Select(r => r.Losses.Count).Order());
        TrialResult best = results.Single(r => r.Losses.Count == 4);
        Assert.False(best.Stopped);
        Assert.All(results.Where(r => r != best), r => Assert.True(r.Stopped && r.EvalLosses[1] >= best.EvalLosses[1]));
    }

    [Theory]
    [InlineData(0, 8, 64, 4)]
    [InlineData(0, 8, 16, 8)]
    [InlineData(0, 8, 1000, 1)]
    [InlineData(0, 20, 32, 7)]
    [InlineData(3, 8, 1, 3)]
    [InlineData(3, 4, 1, 2)]
    public void APassTakesAsManyTrialsAsFillIt(int atOnce, int trials, int tokens, int expected) =>
        Assert.Equal(expected, new SweepOptions { Steps = 1, AtOnce = atOnce }.GroupSize(trials, tokens, 256));

    [Fact]
    public void AnAdaptedHeadIsRefused()
    {
        using var source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => new SideBySideTrainer(model, adapters, [Trial("head", 2, ".*lm_head", 1e-3)], new SweepOptions { Steps = 1 }));
        Assert.Contains("lm_head", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TheSmallestOfTheGoodIsRecommended()
    {
        TrialResult Result(string name, long parameters, double loss, string? fault = null) =>
            new(Trial(name, 4, "all-linear", 1e-3), parameters, [loss], new Dictionary<long, double> { [1] = loss }, false, fault);
        SweepRecommendation advice = SweepRecommendation.From([Result("big", 400, 1.0), Result("small", 100, 1.005), Result("tiny", 10, 1.2), Result("bad", 1, 0.1, "step 3: the loss is NaN")])!;
        Assert.Equal("big", advice.Best.Trial.Name);
        Assert.Equal("small", advice.Recommended.Trial.Name);
        Assert.Contains("0.25", advice.Reasons[1], StringComparison.Ordinal);
        Assert.Contains("bad failed", advice.Reasons[2], StringComparison.Ordinal);
    }

    private static SweepTrial Trial(string name, int rank, string targets, double rate, bool rslora = false, bool dora = false, double alpha = 8) => new(
        name,
        new LoraOptions { Rank = rank, Alpha = alpha, Targets = ModuleSelector.Regex(targets), UseRsLora = rslora, UseDora = dora, Dropout = 0.1 },
        new TrainerOptions { MaxSteps = Steps, LearningRate = rate, WarmupSteps = 1, Seed = 7 });

    private static (double[] Losses, double EvalLoss, long Parameters) Alone(SweepTrial trial)
    {
        using var source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        adapters.Create(trial.Adapter!, trial.Training.Seed);
        using var batches = new Rows();
        Listener listener = new();
        TrainingSetup setup = new()
        {
            Objective = new LanguageModelingObjective(model, trial.Training, new AdapterNoise(adapters, trial.Training.Seed)),
            Trainable = [.. adapters.Trainable],
            Batches = batches,
            Validation = () => [new Rows().NextStep()[0]],
            Observers = [listener],
        };
        using var trainer = new Trainer(setup, trial.Training);
        double evalLoss = trainer.Run(TestContext.Current.CancellationToken).EvalLoss!.Value;
        return ([.. listener.Losses], evalLoss, setup.Trainable.Sum(t => t.Value.NumberOfElements));
    }

    private sealed class Listener : ITrainingObserver
    {
        public List<double> Losses { get; } = [];

        public void On(TrainingEvent happened)
        {
            if (happened is StepCompleted step)
            {
                Losses.Add(step.Loss);
            }
        }
    }

    /// <summary>Two micro-batches a step of two padded rows.</summary>
    private sealed class Rows : IBatchSource
    {
        private readonly Random _random = new(11);

        public long? StepsPerEpoch => 100;

        public double Epoch => 0;

        public IReadOnlyList<MicroBatch> NextStep() => [Next(), Next()];

        public System.Text.Json.Nodes.JsonObject SaveState() => [];

        public void RestoreState(System.Text.Json.Nodes.JsonObject state)
        {
        }

        public void Dispose()
        {
        }

        private MicroBatch Next() => MicroBatchBuilder.Build([Row(9), Row(6)]);

        private TrainingExample Row(int length)
        {
            int[] ids = [.. Enumerable.Range(0, length).Select(_ => _random.Next(3, 160))];
            return new TrainingExample { InputIds = ids, Labels = [.. ids.Select((id, t) => t < 2 ? TrainingExample.Ignored : id)], Origin = "row" };
        }
    }
}
