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

/// <summary>Every family learns through an adapter, and nothing but the adapter changes.</summary>
public sealed class FamilyTrainingTests
{
    public static TheoryData<string> Families => [.. Directory.EnumerateDirectories(Fixtures.Path("models")).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Families))]
    public void Three_steps_lower_the_loss_and_leave_the_base_as_it_was(string family)
    {
        string folder = Fixtures.Path("models/" + family);
        using ModelSource source = ModelSource.OpenFolder(folder);
        using var golden = SafetensorsFile.Open(Path.Combine(folder, "golden.safetensors"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, TestDevice.Current);
        string[] trained = [.. model.Parameters.Select(p => p.Name)];
        Dictionary<string, Tensor> before = trained.Distinct().ToDictionary(n => n, n => model.Parameters.First(p => p.Name == n).Value.detach().clone());
        adapters.Create(new LoraOptions { Rank = 4, Alpha = 8, Targets = ModuleSelector.Parse("all-linear") }, seed: 1);
        var options = new TrainerOptions { MaxSteps = 3, LearningRate = 5e-3, Schedule = ScheduleKind.Constant };
        var seen = new Losses();
        using var batches = new SameBatch(golden);
        using var trainer = new Trainer(
            new TrainingSetup { Objective = new LanguageModelingObjective(model, options), Trainable = [.. adapters.Trainable], Batches = batches, Observers = [seen] },
            options);

        trainer.Run(TestContext.Current.CancellationToken);

        using MicroBatchLoss after = new LanguageModelingObjective(model, options).Evaluate(batches.Batch);
        double reached = after.Sum.item<double>() / after.Weight;
        Assert.True(reached < seen.First - 1e-3, $"loss {seen.First} before, {reached} after");
        Assert.All(adapters.Trainable, t => Assert.True(t.Value.requires_grad));
        foreach ((string name, Tensor value) in before)
        {
            Assert.True(model.Parameters.First(p => p.Name == name).Value.equal(value).all().item<bool>(), $"{name} has changed");
            value.Dispose();
        }
    }

    private sealed class Losses : ITrainingObserver
    {
        public double First { get; private set; } = double.NaN;

        public void On(TrainingEvent happened)
        {
            if (happened is StepCompleted { Step: 1 } step)
            {
                First = step.Loss;
            }
        }
    }

    /// <summary>The golden's rows again and again.</summary>
    private sealed class SameBatch : IBatchSource
    {
        public SameBatch(SafetensorsFile golden)
        {
            using Tensor ids = TensorBytes.ToTensor(golden.Read("input_ids"), null, CPU);
            using Tensor labels = TensorBytes.ToTensor(golden.Read("labels"), null, CPU);
            int rows = (int)ids.shape[0];
            int length = (int)ids.shape[1];
            Batch = new MicroBatch
            {
                Rows = rows,
                Length = length,
                InputIds = ids.data<long>().ToArray(),
                Labels = labels.data<long>().ToArray(),
                Positions = [.. Enumerable.Range(0, rows * length).Select(i => (long)(i % length))],
                Sequences = [.. Enumerable.Repeat(1, rows * length)],
                Origins = ["golden"],
            };
        }

        public MicroBatch Batch { get; }

        public long? StepsPerEpoch => 1;

        public long? TotalSteps => null;

        public double Epoch => 0;

        public IReadOnlyList<MicroBatch> NextStep() => [Batch];

        public System.Text.Json.Nodes.JsonObject SaveState() => [];

        public void RestoreState(System.Text.Json.Nodes.JsonObject state)
        {
        }

        public void Dispose()
        {
        }
    }
}
