using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

public sealed class TokenLossTests
{
    [Fact]
    public void Cross_entropy_given_as_a_custom_loss_has_the_gradients_of_the_built_in_one_whatever_the_pieces()
    {
        using var scope = NewDisposeScope();
        using var source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        adapters.Create(new LoraOptions { Rank = 4, Alpha = 8 }, 1);
        MicroBatch batch = MicroBatchBuilder.Build([.. Enumerable.Range(3, 6).Select(n => new TrainingExample
        {
            InputIds = [.. Enumerable.Range(n, 4 + n)],
            Labels = [.. Enumerable.Range(n, 4 + n)],
            Weights = [.. Enumerable.Repeat(n / 4f, 4 + n)],
            Origin = $"{n}",
        })]);

        // Sixteen tokens a piece, the least: the batch's 45 take three.
        var options = new TrainerOptions { LogitElements = 1 };
        (double loss, Tensor[] gradients) = Take(new LanguageModelingObjective(model, new TrainerOptions()));
        (double own, Tensor[] ownGradients) = Take(new TokenLossObjective(model, options, (logits, targets) => nn.functional.cross_entropy(logits, targets, reduction: nn.Reduction.None)));

        Assert.Equal(loss, own, 1e-5);
        Assert.All(gradients.Zip(ownGradients), p => Assert.True((p.First - p.Second).abs().max().item<float>() < 1e-6));
        using MicroBatchLoss evaluated = new TokenLossObjective(model, options, (logits, targets) => -logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)).Evaluate(batch);
        Assert.Equal(loss, evaluated.Sum.item<double>(), 1e-4);

        (double, Tensor[]) Take(ITrainingObjective objective)
        {
            using MicroBatchLoss sums = objective.Backward(batch, objective.Weight(batch), 1);
            Tensor[] taken = [.. adapters.Trainable.Select(t => t.Value.grad!.clone())];
            foreach (NamedTensor tensor in adapters.Trainable)
            {
                tensor.Value.grad = null;
            }

            return (sums.Sum.item<double>(), taken);
        }
    }
}
