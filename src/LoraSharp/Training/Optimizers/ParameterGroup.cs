using LoraSharp.Layers;

namespace LoraSharp.Training.Optimizers;

/// <summary>Parameters that share a learning rate and a weight decay.</summary>
/// <param name="Parameters">Trainable tensors; owned by their layers.</param>
/// <param name="LearningRate">Peak learning rate; the schedule's factor is applied to it.</param>
/// <param name="WeightDecay">Decoupled weight decay.</param>
public sealed record ParameterGroup(IReadOnlyList<NamedTensor> Parameters, double LearningRate, double WeightDecay)
{
    /// <summary>
    /// Groups by the rules of LoRA+ (arXiv 2402.12354) as PEFT's <c>create_loraplus_optimizer</c> has them: lora_B and
    /// vectors at ratio × learning rate, adapted embeddings at a rate of their own, the rest at the learning rate.
    /// With a ratio of 1 everything has one rate.
    /// </summary>
    public static IReadOnlyList<ParameterGroup> Create(IReadOnlyList<NamedTensor> parameters, TrainerOptions options)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        ArgumentNullException.ThrowIfNull(options);
        return [.. parameters.GroupBy(p => (Rate: Rate(p, options), Decay: Decay(p, options)))
            .Select(group => new ParameterGroup([.. group], group.Key.Rate, group.Key.Decay))];
    }

    private static double Rate(NamedTensor parameter, TrainerOptions options)
    {
        if (options.LoraPlusRatio == 1)
        {
            return options.LearningRate;
        }

        return parameter.Name.Contains("lora_embedding_", StringComparison.Ordinal) ? options.LoraPlusEmbeddingLearningRate
            : parameter.Name.Contains("lora_B", StringComparison.Ordinal) || parameter.Value.dim() == 1 ? options.LearningRate * options.LoraPlusRatio
            : options.LearningRate;
    }

    private static double Decay(NamedTensor parameter, TrainerOptions options) =>
        options.DecayVectors || parameter.Value.dim() > 1 ? options.WeightDecay : 0;
}
