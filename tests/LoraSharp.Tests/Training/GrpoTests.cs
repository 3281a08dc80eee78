using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using LoraSharp.Training.Rewards;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

public sealed class GrpoTests
{
    private static readonly MicroBatch Prompts = MicroBatchBuilder.Build(
    [
        new TrainingExample { InputIds = [5, 6, 7, 30, 31], Labels = [-100, -100, -100, 30, 31], Origin = "a" },
        new TrainingExample { InputIds = [8, 9, 40], Labels = [-100, -100, 40], Origin = "b" },
    ]);

    [Theory]
    [InlineData(0)]
    [InlineData(0.3)]
    public void GradientsAreThoseOfTheFormula(double beta)
    {
        using var scope = NewDisposeScope();
        using var setup = new Setup();
        GrpoOptions options = new() { GroupSize = 3, Beta = beta };
        Random random = new(2);
        List<(int[] Prompt, int[] Completion, double Reward)> rolled = [];
        var objective = new GrpoObjective(
            setup.Model, options, new TrainerOptions { LogitElements = 1 },
            (prompts, asked, _) => [.. prompts.Select(_ => Enumerable.Range(0, asked.GroupSize).Select(_ => Enumerable.Range(0, random.Next(1, 5)).Select(_ => random.Next(3, 160)).ToArray()).ToArray())],
            (prompt, reference, completion) =>
            {
                Assert.Equal(prompt.Length == 3 ? [30, 31] : new[] { 40 }, reference);
                double reward = completion.Sum() % 5;
                rolled.Add((prompt, completion, reward));
                return reward;
            },
            setup.Adapters.Disable);
        using MicroBatchLoss sums = objective.Backward(Prompts, objective.Weight(Prompts), 3);
        Tensor[] gradients = setup.TakeGradients();

        // The definition, one completion after the other, through autograd.
        Tensor total = zeros(1, ScalarType.Float64);
        foreach ((int[] prompt, int[] completion, double reward) in rolled)
        {
            double[] group = [.. rolled.Where(r => r.Prompt.Length == prompt.Length).Select(r => r.Reward)];
            double mean = group.Average();
            double advantage = (reward - mean) / (Math.Sqrt(group.Sum(r => (r - mean) * (r - mean)) / 2) + 1e-4);
            Tensor policy = setup.LogProbabilities(prompt, completion);
            Tensor reference;
            using (no_grad())
            using (setup.Adapters.Disable())
            {
                reference = setup.LogProbabilities(prompt, completion);
            }

            Tensor ratio = (policy - policy.detach()).exp();
            Tensor k3 = (reference - policy).exp() - (reference - policy) - 1;
            total = total + ((ratio * -advantage) + (k3 * beta)).mean() / rolled.Count;
        }

        total.backward();
        Assert.Equal(total.item<double>(), sums.Sum.item<double>() / 6, 5);
        Tensor[] expected = setup.TakeGradients();
        for (int i = 0; i < expected.Length; i++)
        {
            double difference = (expected[i] - gradients[i]).abs().max().item<float>();
            Assert.True(difference < 2e-5, $"{i} differs by {difference}");
        }
    }

    [Theory]
    [InlineData(0, 0.2, null)]
    [InlineData(0.3, 0.1, 0.3)]
    public void LaterUpdatesOfASampleClipTheRatio(double beta, double low, double? high)
    {
        using var scope = NewDisposeScope();
        using var setup = new Setup();
        GrpoOptions options = new() { GroupSize = 4, Beta = beta, Iterations = 3, Epsilon = low, EpsilonHigh = high };
        Random random = new(5);
        int sampled = 0;
        List<(int[] Prompt, int[] Completion, double Reward)> rolled = [];
        GrpoObjective Objective() => new(
            setup.Model, options, new TrainerOptions { LogitElements = 1 },
            (prompts, asked, _) =>
            {
                sampled++;
                return [.. prompts.Select(_ => Enumerable.Range(0, asked.GroupSize).Select(_ => Enumerable.Range(0, random.Next(2, 6)).Select(_ => random.Next(3, 160)).ToArray()).ToArray())];
            },
            (prompt, _, completion) =>
            {
                double reward = completion.Sum() % 7;
                rolled.Add((prompt, completion, reward));
                return reward;
            },
            setup.Adapters.Disable);
        GrpoObjective objective = Objective();

        // Steps 6, 7 and 8 are one sample's.
        using (MicroBatchLoss first = objective.Backward(Prompts, objective.Weight(Prompts), 6L << 20))
        {
            Assert.Equal(0, first.Metrics["clip_ratio"].item<double>());
        }

        setup.TakeGradients();
        Tensor[] before = [.. rolled.Select(r => setup.LogProbabilities(r.Prompt, r.Completion).detach())];
        setup.Move(0.05);
        System.Text.Json.Nodes.JsonObject saved = System.Text.Json.Nodes.JsonNode.Parse(objective.SaveState()!.ToJsonString())!.AsObject();
        objective = Objective();
        objective.RestoreState(saved);
        using MicroBatchLoss sums = objective.Backward(Prompts, objective.Weight(Prompts), 7L << 20);
        Assert.Equal(1, sampled);
        Tensor[] gradients = setup.TakeGradients();

        Tensor total = zeros(1, ScalarType.Float64);
        double clipped = 0;
        for (int i = 0; i < rolled.Count; i++)
        {
            (int[] prompt, int[] completion, double reward) = rolled[i];
            double[] group = [.. rolled.Where(r => r.Prompt.Length == prompt.Length).Select(r => r.Reward)];
            double mean = group.Average();
            double advantage = (reward - mean) / (Math.Sqrt(group.Sum(r => (r - mean) * (r - mean)) / (group.Length - 1)) + 1e-4);
            Tensor policy = setup.LogProbabilities(prompt, completion);
            Tensor reference;
            using (no_grad())
            using (setup.Adapters.Disable())
            {
                reference = setup.LogProbabilities(prompt, completion);
            }

            Tensor ratio = (policy - before[i]).exp();
            Tensor bounded = ratio.clamp(1 - low, 1 + (high ?? low));
            Tensor gain = minimum(ratio * advantage, bounded * advantage);
            Tensor k3 = (reference - policy).exp() - (reference - policy) - 1;
            total = total + ((k3 * beta) - gain).mean() / rolled.Count;
            clipped += gain.ne(ratio * advantage).to(ScalarType.Float64).mean().item<double>() / rolled.Count;
        }

        total.backward();
        Assert.InRange(clipped, 0.05, 0.95);
        Assert.Equal(clipped, sums.Metrics["clip_ratio"].item<double>() / rolled.Count, 6);
        Assert.Equal(total.item<double>(), sums.Sum.item<double>() / rolled.Count, 5);
        Tensor[] expected = setup.TakeGradients();
        for (int i = 0; i < expected.Length; i++)
        {
            double difference = (expected[i] - gradients[i]).abs().max().item<float>();
            Assert.True(difference < 5e-5, $"{i} differs by {difference}");
        }

        objective.Backward(Prompts, objective.Weight(Prompts), 9L << 20).Dispose();
        Assert.Equal(2, sampled);
    }

    [Fact]
    public void RewardsGoUp()
    {
        using var setup = new Setup();
        Random random = new(4);
        TrainerOptions options = new() { MaxSteps = 25, LearningRate = 2e-2, Schedule = ScheduleKind.Constant };
        var objective = new GrpoObjective(
            setup.Model, new GrpoOptions { GroupSize = 16 }, options,
            (prompts, asked, seed) => [.. prompts.Select(p => setup.Sample(p, asked.GroupSize, seed))],
            (_, _, completion) => completion[0] < 80 ? 1 : 0,
            setup.Adapters.Disable);
        Listener listener = new();
        using var trainer = new Trainer(
            new TrainingSetup { Objective = objective, Trainable = [.. setup.Adapters.Trainable], Batches = new Same(), Observers = [listener] }, options);
        trainer.Run(TestContext.Current.CancellationToken);
        double before = listener.Rewards.Take(3).Average(), after = listener.Rewards.TakeLast(3).Average();
        Assert.True(after > before + 0.2, $"{before} -> {after}");
    }

    [Fact]
    public void TextsAreChecked()
    {
        TextReward number = TextRewards.ByPattern(@"####\s*(?<answer>-?\d+)");
        Assert.Equal(1, number("", "so it is\n#### 42", "I think #### 41, no: #### 42."));
        Assert.Equal(0, number("", "#### 42", "42"));
        Assert.Equal(0, number("", "#### 42", "#### 41"));
        Assert.Equal(1, TextRewards.ByPattern("^yes")("", "no", "yes, of course"));
        Assert.Equal(1, TextRewards.ExactMatch(" Paris\n", "Paris"));
        Assert.Throws<LoraSharp.Formats.LoraSharpException>(() => TextRewards.ByPattern("("));
    }

    private sealed class Listener : ITrainingObserver
    {
        public List<double> Rewards { get; } = [];

        public void On(TrainingEvent happened)
        {
            if (happened is StepCompleted step)
            {
                Rewards.Add(step.Metrics["reward"]);
            }
        }
    }

    private sealed class Same : IBatchSource
    {
        public long? StepsPerEpoch => 100;

        public double Epoch => 0;

        public IReadOnlyList<MicroBatch> NextStep() => [Prompts];

        public System.Text.Json.Nodes.JsonObject SaveState() => [];

        public void RestoreState(System.Text.Json.Nodes.JsonObject state)
        {
        }

        public void Dispose()
        {
        }
    }

    private sealed class Setup : IDisposable
    {
        private readonly ModelSource _source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));

        public Setup()
        {
            Model = ModelLoader.Load(_source, new LoraLinearFactory(Adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
            Adapters.Create(new LoraOptions { Rank = 4, Alpha = 8 }, 1);
            var random = new Generator(3);
            using var none = no_grad();
            foreach (NamedTensor tensor in Adapters.Trainable.Where(t => t.Name.Contains("lora_B", StringComparison.Ordinal)))
            {
                using Tensor noise = randn(tensor.Value.shape, generator: random);
                tensor.Value.copy_(noise * 0.05);
            }
        }

        public AdapterSet Adapters { get; } = new();

        public CausalLanguageModel Model { get; }

        public Tensor LogProbabilities(int[] prompt, int[] completion)
        {
            int[] all = [.. prompt, .. completion];
            Tensor ids = tensor(all, ScalarType.Int64).unsqueeze(0);
            using var attention = new PaddedAttention();
            Tensor logP = Model.Forward(ids, arange(all.Length, ScalarType.Int64).unsqueeze(0), attention).to(ScalarType.Float64).log_softmax(-1)[0];
            return logP.narrow(0, prompt.Length - 1, completion.Length).gather(-1, tensor(completion, ScalarType.Int64).unsqueeze(1)).squeeze(1);
        }

        public IReadOnlyList<int[]> Sample(int[] prompt, int count, long seed)
        {
            using var scope = NewDisposeScope();
            Tensor ids = tensor(prompt, ScalarType.Int64).unsqueeze(0);
            using var attention = new PaddedAttention();
            Tensor last = Model.Forward(ids, arange(prompt.Length, ScalarType.Int64).unsqueeze(0), attention)[0, -1];
            Tensor drawn = last.softmax(-1).multinomial(count, true, new Generator((ulong)seed));
            return [.. drawn.data<long>().ToArray().Select(t => new[] { (int)t })];
        }

        public void Move(double far)
        {
            using var none = no_grad();
            var random = new Generator(11);
            foreach (NamedTensor tensor in Adapters.Trainable)
            {
                using Tensor noise = randn(tensor.Value.shape, generator: random);
                tensor.Value.add_(noise * far);
            }
        }

        public Tensor[] TakeGradients()
        {
            Tensor[] gradients = [.. Adapters.Trainable.Select(t => t.Value.grad!.clone())];
            foreach (NamedTensor tensor in Adapters.Trainable)
            {
                tensor.Value.grad = null;
            }

            return gradients;
        }

        public void Dispose()
        {
            Adapters.Dispose();
            Model.Dispose();
            _source.Dispose();
        }
    }
}
