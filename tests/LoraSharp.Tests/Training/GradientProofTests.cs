using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Tests.Adapters;
using LoraSharp.Training;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

/// <summary>The first step finds every matrix that training would leave as it is.</summary>
public sealed class GradientProofTests
{
    [Fact]
    public void A_tensor_that_no_gradient_reaches_ends_the_run_by_name()
    {
        using var model = new ToyModel();
        using Tensor idle = zeros(3, 4).requires_grad_();
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => Run(model, [.. model.Parameters, new NamedTensor("layers.7.lora_A", idle)], _ => true));
        Assert.Contains("Step 1: 1 of 3", error.Message, StringComparison.Ordinal);
        Assert.Contains("layers.7.lora_A", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_may_rest_is_not_asked_for()
    {
        using var model = new ToyModel();
        using Tensor idle = zeros(3, 4).requires_grad_();
        Assert.Equal(2, Run(model, [.. model.Parameters, new NamedTensor("mlp.experts.3.lora_A", idle)], n => !n.Contains(".experts.", StringComparison.Ordinal)).Steps);
    }

    [Theory]
    [InlineData("true", false)]
    [InlineData("pissa", false)]
    [InlineData("true", true)]
    public void Gradients_that_are_zero_everywhere_still_count(string init, bool dora)
    {
        // B starts at zero, so A's first gradient is zero; the row of a token that no row holds gets zeros as well.
        using var model = new AdaptedModel("models/llama");
        LoraAdapter adapter = model.Adapters.Create(
            new LoraOptions { Rank = 2, Init = init, UseDora = dora, Targets = ModuleSelector.List(["q_proj", "down_proj", "lm_head"]), TrainableTokens = new Dictionary<string, IReadOnlyList<long>> { ["embed_tokens"] = [90] } },
            seed: 1);
        Run(new LanguageModelingObjective(model.Model, new TrainerOptions()), [.. adapter.Tensors], _ => true);
    }

    private static TrainingResult Run(ITrainingObjective objective, IReadOnlyList<NamedTensor> trainable, Func<string, bool> mustLearn)
    {
        using var trainer = new Trainer(
            new TrainingSetup { Objective = objective, Trainable = trainable, Batches = new ToyBatches(2, 2), MustLearn = mustLearn },
            new TrainerOptions { MaxSteps = 2 });
        return trainer.Run(TestContext.Current.CancellationToken);
    }
}
