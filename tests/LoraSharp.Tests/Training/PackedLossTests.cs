using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

/// <summary>Rows that share a window know nothing of each other: losses and gradients are those of each row by itself.</summary>
public sealed class PackedLossTests
{
    // Longer and shorter than the windows of 8 that gemma2, gemma3 and mistral slide, and of one token beside what is predicted.
    private static readonly int[] Lengths = [13, 5, 2, 19, 8];

    [Theory]
    [InlineData("llama", GradientCheckpointing.Off)]
    [InlineData("llama", GradientCheckpointing.On)]
    [InlineData("qwen2", GradientCheckpointing.Off)]
    [InlineData("qwen2_window", GradientCheckpointing.Off)]
    [InlineData("gemma", GradientCheckpointing.Off)]
    [InlineData("gemma2", GradientCheckpointing.Off)]
    [InlineData("gemma3_text", GradientCheckpointing.Off)]
    [InlineData("mistral", GradientCheckpointing.Off)]
    public void LossesAndGradientsAreThoseOfEachRowByItself(string family, GradientCheckpointing recompute)
    {
        using var scope = NewDisposeScope();
        using var source = ModelSource.OpenFolder(Fixtures.Path("models/" + family));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        adapters.Create(new LoraOptions { Rank = 4, Alpha = 8 }, seed: 1);
        NamedTensor[] trained = [.. adapters.Trainable];
        // B begins at zero, where A has no gradient.
        manual_seed(2);
        using (no_grad())
        {
            foreach (NamedTensor tensor in trained)
            {
                tensor.Value.add_(randn_like(tensor.Value), 0.05);
            }
        }

        Random random = new(3);
        TrainingExample[] rows = [.. Lengths.Select((n, i) => Row(i, n, (int)model.Config.VocabularySize, random))];
        double weight = rows.Sum(r => r.TargetTokens);
        var objective = new LanguageModelingObjective(model, new TrainerOptions { MaxSteps = 1, GradientCheckpointing = recompute });

        (double[] alone, Tensor[] expected) = Run([.. rows.Select(r => MicroBatchBuilder.Build([r]))]);
        // Two windows, one of them with room left, so that padding lies beside sequences too.
        (double[] packed, Tensor[] actual) = Run([MicroBatchBuilder.Build([[rows[0], rows[1], rows[2]], [rows[3], rows[4]]], length: 32)]);

        Assert.Equal(alone, packed, (a, b) => Math.Abs(a - b) <= 1e-6 * Math.Max(1, a));
        for (int i = 0; i < trained.Length; i++)
        {
            float largest = expected[i].abs().max().item<float>();
            float apart = (expected[i] - actual[i]).abs().max().item<float>();
            Assert.True(largest > 0, $"{trained[i].Name} has no gradient");
            Assert.True(apart <= 2e-5 * largest + 1e-8, $"{trained[i].Name}: {apart} apart, largest {largest}");
        }

        (double[] Losses, Tensor[] Gradients) Run(IReadOnlyList<MicroBatch> batches)
        {
            List<double> losses = [];
            foreach (NamedTensor tensor in trained)
            {
                tensor.Value.grad = null;
            }

            foreach (MicroBatch batch in batches)
            {
                using MicroBatchLoss loss = objective.Backward(batch, weight, 0);
                using Tensor sums = loss.BySequence.to(ScalarType.Float64);
                losses.AddRange(sums.data<double>().ToArray());
            }

            return ([.. losses], [.. trained.Select(t => t.Value.grad!.clone())]);
        }
    }

    private static TrainingExample Row(int number, int length, int vocabulary, Random random)
    {
        int[] ids = [.. Enumerable.Range(0, length).Select(_ => random.Next(3, vocabulary))];
        return new TrainingExample { InputIds = ids, Labels = [.. ids.Select((id, t) => t < length / 3 ? TrainingExample.Ignored : id)], Origin = $"row {number}" };
    }
}
