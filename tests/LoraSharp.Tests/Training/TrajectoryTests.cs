using System.Text.Json.Nodes;
using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

/// <summary>Whole training runs against PEFT and torch: losses, norms, learning rates of every step, and what came out.</summary>
public sealed class TrajectoryTests
{
    [Theory]
    [InlineData("lora")]
    [InlineData("lora_qv_accum")]
    [InlineData("rslora")]
    [InlineData("loraplus")]
    [InlineData("dora")]
    [InlineData("modules_to_save")]
    [InlineData("gpt2")]
    [InlineData("qwen3")]
    [InlineData("full")]
    public void EqualsTheReference(string name) => Check(Fixtures.Path("training/" + name), Fixtures.Path, 1e-5, GradientCheckpointing.Off);

    [Theory]
    [InlineData("lora")]
    [InlineData("full")]
    public void RecomputedActivationsChangeNothing(string name) => Check(Fixtures.Path("training/" + name), Fixtures.Path, 1e-5, GradientCheckpointing.On);

    /// <summary>Noise on the embeddings is there in training, the same for equal pass numbers, and gone in evaluation.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void NeftuneIsNoiseOfThePass(bool recompute)
    {
        using var source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        adapters.Create(new LoraOptions { Rank = 2 }, 1);
        using var noise = new NeftuneNoise(10, seed: 4);
        TrainerOptions options = new() { GradientCheckpointing = recompute ? GradientCheckpointing.On : GradientCheckpointing.Off };
        var objective = new LanguageModelingObjective(model, options, new CombinedNoise([new AdapterNoise(adapters, 4), noise]));
        MicroBatch batch = MicroBatchBuilder.Build([new TrainingExample { InputIds = [5, 6, 7, 8, 9], Labels = [5, 6, 7, 8, 9], Origin = "row" }]);
        double first = Loss(1), again = Loss(1), other = Loss(2);
        using MicroBatchLoss clean = objective.Evaluate(batch);
        Assert.Equal(first, again);
        Assert.NotEqual(first, other);
        Assert.NotEqual(first, clean.Sum.item<double>());
        Assert.InRange(Math.Abs(first - clean.Sum.item<double>()) / clean.Sum.item<double>(), 1e-6, 0.5);

        double Loss(long pass)
        {
            using MicroBatchLoss loss = objective.Backward(batch, 4, pass);
            return loss.Sum.item<double>();
        }
    }

    [Fact]
    public void SmolLm2OnE2E()
    {
        string folder = Fixtures.ReferenceOrSkip("fixtures/real/lora_e2e");
        string? model = Environment.GetEnvironmentVariable("LORASHARP_SMOLLM2");
        Assert.SkipWhen(model is null, "needs SmolLM2-135M-Instruct as a Hugging Face folder in LORASHARP_SMOLLM2");
        Check(folder, _ => model!, 1e-4, GradientCheckpointing.Off);
    }

    private static void Check(string folder, Func<string, string> baseModel, double tolerance, GradientCheckpointing recompute)
    {
        JsonObject recipe = JsonFile.ReadObject(Path.Combine(folder, "recipe.json"));
        using var golden = SafetensorsFile.Open(Path.Combine(folder, "golden.safetensors"));
        using var source = ModelSource.OpenFolder(baseModel((string?)recipe["base"] ?? string.Empty));
        string initial = Path.Combine(folder, "initial");
        bool full = !Directory.Exists(initial);
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, full ? new DenseLinearFactory(trainable: true) : new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, TestDevice.Current);
        if (!full)
        {
            using AdapterFolder start = AdapterFolder.Open(initial);
            adapters.Load(start, trainable: true);
            adapters.Select(AdapterSet.DefaultName);
        }

        NamedTensor[] trainable = full ? [.. model.Parameters] : [.. adapters.Trainable];
        TrainerOptions options = new()
        {
            MaxSteps = (long)recipe["steps"]!,
            LearningRate = (double)recipe["lr"]!,
            WeightDecay = (double)recipe["weight_decay"]!,
            WarmupSteps = (long)recipe["warmup_steps"]!,
            LoraPlusRatio = (double)recipe["loraplus_ratio"]!,
            GradientCheckpointing = recompute,
            LogitElements = 1,
        };
        Recorder recorder = new();
        using var trainer = new Trainer(
            new TrainingSetup
            {
                Objective = new LanguageModelingObjective(model, options),
                Trainable = trainable,
                Batches = new GoldenBatches(golden, (int)recipe["accumulation"]!),
                Observers = [recorder],
            },
            options);
        trainer.Run(TestContext.Current.CancellationToken);

        double[] losses = Golden(golden, "loss"), norms = Golden(golden, "grad_norm");
        Assert.Equal(losses.Length, recorder.Steps.Count);
        for (int i = 0; i < losses.Length; i++)
        {
            Assert.True(Math.Abs(losses[i] - recorder.Steps[i].Loss) <= tolerance, $"step {i}: loss {recorder.Steps[i].Loss}, expected {losses[i]}");
            Assert.True(Math.Abs(norms[i] - recorder.Steps[i].GradNorm) <= 10 * tolerance * Math.Max(1, norms[i]), $"step {i}: norm {recorder.Steps[i].GradNorm}, expected {norms[i]}");
        }

        if (golden.Tensors.ContainsKey("lr"))
        {
            Assert.Equal(Golden(golden, "lr"), recorder.Steps.Select(s => s.LearningRate), (a, b) => Math.Abs(a - b) < 1e-8);
        }

        CompareFinal(Path.Combine(folder, "final", full ? "model.safetensors" : AdapterFolder.WeightsName), full
            ? model.Parameters.Select(p => (p.Name, p.Value))
            : adapters[AdapterSet.DefaultName].Modules.Values.SelectMany(m => m.Parts).Select(p => (p.Key, p.Value)));
    }

    private static void CompareFinal(string path, IEnumerable<(string Name, Tensor Value)> trained)
    {
        using var final = SafetensorsFile.Open(path);
        int compared = 0;
        foreach ((string name, Tensor value) in trained)
        {
            using var scope = NewDisposeScope();
            Tensor expected = TensorBytes.ToTensor(final.Read(name), null, CPU);
            double difference = (expected - value.detach().cpu()).abs().max().item<float>();
            Assert.True(difference <= 1e-4, $"{name} differs by {difference}");
            compared++;
        }

        Assert.Equal(final.Tensors.Count, compared);
    }

    private static double[] Golden(SafetensorsFile golden, string name)
    {
        using Tensor values = TensorBytes.ToTensor(golden.Read(name), null, CPU);
        using Tensor wide = values.to(ScalarType.Float64);
        return wide.data<double>().ToArray();
    }

    private sealed class Recorder : ITrainingObserver
    {
        public List<StepCompleted> Steps { get; } = [];

        public void On(TrainingEvent happened)
        {
            if (happened is StepCompleted step)
            {
                Steps.Add(step);
            }
        }
    }

    /// <summary>The micro-batches of a golden file, in order.</summary>
    private sealed class GoldenBatches(SafetensorsFile golden, int accumulation) : IBatchSource
    {
        private int _next;

        public long? StepsPerEpoch => golden.Tensors["input_ids"].Shape[0] / accumulation;

        public double Epoch => _next / (double)golden.Tensors["input_ids"].Shape[0];

        public IReadOnlyList<MicroBatch> NextStep() => [.. Enumerable.Range(0, accumulation).Select(_ => Read(_next++))];

        public JsonObject SaveState() => new() { ["next"] = _next };

        public void RestoreState(JsonObject state) => _next = (int)state["next"]!;

        public void Dispose()
        {
        }

        private MicroBatch Read(int index)
        {
            int rows = (int)golden.Tensors["input_ids"].Shape[1], length = (int)golden.Tensors["input_ids"].Shape[2];
            return new()
            {
                Rows = rows,
                Length = length,
                InputIds = Values("input_ids", index),
                Labels = Values("labels", index),
                Sequences = [.. Values("attention_mask", index).Select(m => (int)m)],
                Positions = [.. Enumerable.Range(0, rows * length).Select(i => (long)(i % length))],
                Origins = [.. Enumerable.Range(0, rows).Select(r => $"golden:{index}.{r}")],
            };
        }

        private long[] Values(string name, int index)
        {
            using Tensor all = TensorBytes.ToTensor(golden.Read(name), null, CPU);
            using Tensor one = all[index];
            return one.data<long>().ToArray();
        }
    }
}
