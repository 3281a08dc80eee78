using LoraSharp.Formats;
using LoraSharp.Models;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Training.Rewards;

/// <summary>
/// Group-relative policy optimisation (Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300, section 4.1) with rewards that can
/// be checked. Of each row's prompt a group of completions is sampled from the model as it is, judged, and made more or
/// less likely by how much better than its group each is. One update a sample, so the policy's ratio is 1 and never clipped.
/// </summary>
/// <remarks>
/// Rows are prompt and reference answer, the labels mark the answer. A token's gradient is that of
/// (−A + β·(1 − p_ref/p))·log p, divided by its completion's length: the k3 estimator of the divergence in equation 4.
/// </remarks>
public sealed class GrpoObjective : ITrainingObjective
{
    // TRL's guard against a spread of 0.
    private const double SpreadEpsilon = 1e-4;
    private readonly CausalLanguageModel _model;
    private readonly GrpoOptions _options;
    private readonly SampleCompletions _sample;
    private readonly CompletionReward _reward;
    private readonly Func<IDisposable> _useReference;
    private readonly ChunkedCrossEntropy _loss;
    private readonly RecomputeDecision _recompute;
    private readonly long _seed;

    /// <summary>Creates the objective.</summary>
    /// <param name="model">The model with the adapter that is trained.</param>
    /// <param name="options">Group size, length, temperature, divergence.</param>
    /// <param name="training">Recomputation, size of pieces, seed.</param>
    /// <param name="sample">Writes completions.</param>
    /// <param name="reward">Judges them.</param>
    /// <param name="useReference">Makes the model the reference: <c>adapters.Disable</c>.</param>
    /// <exception cref="LoraSharpException">The options have faults.</exception>
    public GrpoObjective(CausalLanguageModel model, GrpoOptions options, TrainerOptions training, SampleCompletions sample, CompletionReward reward, Func<IDisposable> useReference)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(training);
        if (options.Validate() is { Count: > 0 } faults)
        {
            throw new LoraSharpException(string.Join(Environment.NewLine, faults));
        }

        _model = model;
        _options = options;
        _sample = sample;
        _reward = reward;
        _useReference = useReference;
        _loss = LanguageModelingObjective.CreateLoss(model, training with { LabelSmoothing = 0, ZLoss = 0 }, options.Temperature);
        _recompute = new RecomputeDecision(model, training.GradientCheckpointing);
        _seed = training.Seed;
    }

    /// <inheritdoc/>
    public double Weight(MicroBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        return batch.Rows * _options.GroupSize;
    }

    /// <inheritdoc/>
    public MicroBatchLoss Backward(MicroBatch batch, double stepWeight, long seed)
    {
        using var scope = NewDisposeScope();
        Group group = Roll(batch, seed);
        TargetTokens targets = TargetTokens.Of(group.Batch);
        Tensor ids = tensor(targets.Ids, ScalarType.Int64, _model.Device);
        double[]? reference = _options.Beta > 0 ? Reference(group.Batch, targets, ids) : null;
        using var pass = new ForwardPass(_model, group.Batch, _recompute.For(group.Batch));
        Tensor selected = targets.Select(pass.Hidden);
        double[] divergences = new double[group.Advantages.Length];
        float[] factors = Factors(targets, group, reference, reference is null ? null : Host(_loss.Losses(selected, ids, false, out _)), divergences);
        Tensor gradient = _loss.Backward(selected, ids, tensor(factors, ScalarType.Float32, _model.Device), 1 / stepWeight, out _);
        pass.Backward(selected, gradient);
        return Sums(group, divergences);
    }

    /// <summary>Mean reward of completions sampled with a seed of their own; the loss is its negative.</summary>
    public MicroBatchLoss Evaluate(MicroBatch batch)
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Group group = Roll(batch, -1);
        double[] losses = [.. group.Rewards.Select(r => -r)];
        return Sums(group, new double[losses.Length], losses);
    }

    private Group Roll(MicroBatch batch, long seed)
    {
        (int[] Prompt, int[] Reference)[] asked = [.. Enumerable.Range(0, batch.Rows).Select(row => Split(batch, row))];
        IReadOnlyList<IReadOnlyList<int[]>> groups;
        using (no_grad())
        {
            groups = _sample([.. asked.Select(a => a.Prompt)], _options, PassSeed.Of(_seed, seed, 0));
        }

        List<TrainingExample> rows = [];
        List<double> rewards = [], advantages = [], spreads = [];
        for (int row = 0; row < batch.Rows; row++)
        {
            (int[] prompt, int[] reference) = asked[row];
            double[] judged = [.. groups[row].Select(c => Judge(prompt, reference, c, batch.Origins[row]))];
            rewards.AddRange(judged);
            advantages.AddRange(Advantages(judged, out double spread));
            spreads.Add(spread);
            rows.AddRange(groups[row].Select(c => new TrainingExample
            {
                InputIds = [.. prompt, .. c],
                Labels = [.. Enumerable.Repeat(TrainingExample.Ignored, prompt.Length), .. c],
                Origin = batch.Origins[row],
            }));
        }

        return new(MicroBatchBuilder.Build(rows), [.. rewards], [.. advantages], [.. spreads], groups.Sum(g => g.Count(c => c.Length >= _options.MaxTokens)));
    }

    private double Judge(int[] prompt, int[] reference, int[] completion, string origin)
    {
        double reward = _reward(prompt, reference, completion);
        return double.IsFinite(reward) ? reward : throw new LoraSharpException(FormattableString.Invariant($"{origin}: the reward of a completion is {reward}. Expected a finite number: mend the reward function."));
    }

    /// <summary>How much better than its group each completion is: equation 3's baseline, TRL's sample deviation.</summary>
    internal double[] Advantages(double[] rewards, out double spread)
    {
        double mean = rewards.Average();
        double deviation = Math.Sqrt(rewards.Sum(r => (r - mean) * (r - mean)) / Math.Max(1, rewards.Length - 1));
        spread = deviation;
        return [.. rewards.Select(r => (r - mean) / (_options.ScaleRewards ? deviation + SpreadEpsilon : 1))];
    }

    private double[] Reference(MicroBatch batch, TargetTokens targets, Tensor ids)
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        using IDisposable reference = _useReference();
        using var pass = new ForwardPass(_model, batch, false);
        return Host(_loss.Losses(targets.Select(pass.Hidden), ids, false, out _));
    }

    // Factor on each token's −log p, and each completion's divergence.
    private float[] Factors(TargetTokens targets, Group group, double[]? reference, double[]? policy, double[] divergences)
    {
        double[] lengths = targets.SequenceWeights();
        float[] factors = new float[targets.Count];
        for (int i = 0; i < factors.Length; i++)
        {
            int row = targets.Sequences[i];
            double factor = group.Advantages[row];
            if (reference is not null)
            {
                // log p_ref − log p of losses that are −log p.
                double difference = policy![i] - reference[i];
                factor -= _options.Beta * (1 - Math.Exp(difference));
                divergences[row] += (Math.Exp(difference) - difference - 1) / lengths[row];
            }

            factors[i] = (float)(factor / lengths[row]);
        }

        return factors;
    }

    private MicroBatchLoss Sums(Group group, double[] divergences, double[]? losses = null)
    {
        losses ??= [.. group.Advantages.Zip(divergences, (a, d) => -a + (_options.Beta * d))];
        Tensor Scalar(double value) => tensor(value, ScalarType.Float64, _model.Device).MoveToOuterDisposeScope();
        return new()
        {
            Weight = group.Rewards.Length,
            Sum = Scalar(losses.Sum()),
            BySequence = tensor(losses, ScalarType.Float64, _model.Device).MoveToOuterDisposeScope(),
            SequenceWeights = [.. Enumerable.Repeat(1.0, losses.Length)],
            Metrics = new Dictionary<string, Tensor>
            {
                // Each is a mean over completions once it is divided by their number.
                ["reward"] = Scalar(group.Rewards.Sum()),
                ["reward_std"] = Scalar(group.Spreads.Sum() * _options.GroupSize),
                ["flat_groups"] = Scalar(group.Spreads.Count(s => s == 0) * _options.GroupSize),
                ["kl"] = Scalar(divergences.Sum()),
                ["completion_length"] = Scalar(TargetTokens.Of(group.Batch).Count),
                ["truncated"] = Scalar(group.Truncated),
            },
        };
    }

    private static double[] Host(Tensor values)
    {
        using Tensor wide = values.to(ScalarType.Float64);
        using Tensor host = wide.cpu();
        return host.data<double>().ToArray();
    }

    // The answer is the last supervised stretch: of a conversation the last turn, with all before it as the prompt.
    private static (int[] Prompt, int[] Reference) Split(MicroBatch batch, int row)
    {
        ReadOnlySpan<long> labels = batch.Labels.AsSpan(row * batch.Length, batch.Length);
        int end = labels.LastIndexOfAnyExcept(TrainingExample.Ignored) + 1;
        int start = labels[..end].LastIndexOf(TrainingExample.Ignored) + 1;
        int[] ids = [.. batch.InputIds.AsSpan(row * batch.Length, end).ToArray().Select(i => (int)i)];
        return (ids[..start], ids[start..]);
    }

    private sealed record Group(MicroBatch Batch, double[] Rewards, double[] Advantages, double[] Spreads, int Truncated);
}
