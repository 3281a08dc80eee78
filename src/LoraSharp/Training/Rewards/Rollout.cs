using LoraSharp.Training.Data;

namespace LoraSharp.Training.Rewards;

/// <summary>Sampled completions of a micro-batch's prompts, judged: what several updates may learn from.</summary>
/// <param name="Batch">Prompts and completions; the labels mark the completions.</param>
/// <param name="Rewards">Of each completion.</param>
/// <param name="Advantages">Of each completion.</param>
/// <param name="Spreads">Standard deviation of each group's rewards.</param>
/// <param name="Truncated">Completions that reached the longest length.</param>
internal sealed record Rollout(MicroBatch Batch, double[] Rewards, double[] Advantages, double[] Spreads, int Truncated)
{
    /// <summary>−log p of each supervised token under the policy that was sampled from; null until its first pass.</summary>
    public double[]? Sampled { get; init; }

    /// <summary>−log p of each supervised token under the reference; null without one.</summary>
    public double[]? Reference { get; init; }
}
