using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Models;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Training.Rewards;

/// <summary>
/// Group-relative policy optimisation (Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300, section 4.1) with rewards that can
/// be checked. Of each row's prompt a group of completions is sampled from the model as it is, judged, and made more or
/// less likely by how much better than its group each is. A sample serves μ optimizer steps (<see cref="GrpoOptions.Iterations"/>);
/// in the first of them the policy is the one that was sampled from, and its ratio to it 1.
/// </summary>
/// <remarks>
/// Rows are prompt and reference answer, the labels mark the answer. A token's loss is
/// −min(ρ·A, clip(ρ, 1 − ε, 1 + ε_high)·A) + β·k3 with ρ = p/p_sampled and k3 = p_ref/p − log(p_ref/p) − 1, divided by its
/// completion's length (equations 3 and 4). Its gradient is that of (−A·ρ + β·(1 − p_ref/p))·log p, without the first part where
/// the ratio is clipped: worse than the bound lets it be, for A &gt; 0 above, for A &lt; 0 below.
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
    private readonly RolloutMemory? _memory;

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
        _memory = options.Iterations > 1 ? new RolloutMemory(options.Iterations) : null;
    }

    /// <inheritdoc/>
    public JsonObject? SaveState() => _memory?.Save();

    /// <inheritdoc/>
    public void RestoreState(JsonObject state) => _memory?.Restore(state);

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
        Rollout rollout = _memory?.Find(seed) ?? Roll(batch, seed);
        TargetTokens targets = TargetTokens.Of(rollout.Batch);
        Tensor ids = tensor(targets.Ids, ScalarType.Int64, _model.Device);
        if (_options.Beta > 0 && rollout.Reference is null)
        {
            rollout = rollout with { Reference = Reference(rollout.Batch, targets, ids) };
        }

        using var pass = new ForwardPass(_model, rollout.Batch, _recompute.For(rollout.Batch));
        Tensor selected = targets.Select(pass.Hidden);
        double[]? policy = _options.Beta > 0 || _memory is not null ? Host(_loss.Losses(selected, ids, false, out _)) : null;
        rollout = rollout with { Sampled = rollout.Sampled ?? policy };
        _memory?.Keep(seed, rollout);
        var terms = new Terms(rollout.Advantages.Length);
        float[] factors = Factors(targets, rollout, policy, terms);
        Tensor gradient = _loss.Backward(selected, ids, tensor(factors, ScalarType.Float32, _model.Device), 1 / stepWeight, out _);
        pass.Backward(selected, gradient);
        return Sums(rollout, terms);
    }

    /// <summary>Mean reward of completions sampled with a seed of their own; the loss is its negative.</summary>
    public MicroBatchLoss Evaluate(MicroBatch batch)
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Rollout rollout = Roll(batch, -1);
        return Sums(rollout, new Terms(rollout.Rewards.Length), [.. rollout.Rewards.Select(r => -r)]);
    }

    private Rollout Roll(MicroBatch batch, long seed)
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

    // Factor on each token's −log p, and what the tokens' terms come to.
    private float[] Factors(TargetTokens targets, Rollout rollout, double[]? policy, Terms terms)
    {
        double[] lengths = targets.SequenceWeights();
        float[] factors = new float[targets.Count];
        double lowest = 1 - _options.Epsilon, highest = 1 + (_options.EpsilonHigh ?? _options.Epsilon);
        for (int i = 0; i < factors.Length; i++)
        {
            int row = targets.Sequences[i];
            double advantage = rollout.Advantages[row], share = 1 / lengths[row];

            // Of losses that are −log p.
            double ratio = policy is null ? 1 : Math.Exp(rollout.Sampled![i] - policy[i]);
            bool clipped = advantage > 0 ? ratio > highest : advantage < 0 && ratio < lowest;
            terms.Gains[row] += share * Math.Min(ratio * advantage, Math.Clamp(ratio, lowest, highest) * advantage);
            terms.Clipped[row] += clipped ? share : 0;
            double factor = clipped ? 0 : advantage * ratio;
            if (rollout.Reference is not null)
            {
                double difference = policy![i] - rollout.Reference[i];
                factor -= _options.Beta * (1 - Math.Exp(difference));
                terms.Divergences[row] += share * (Math.Exp(difference) - difference - 1);
            }

            factors[i] = (float)(factor * share);
        }

        return factors;
    }

    private MicroBatchLoss Sums(Rollout rollout, Terms terms, double[]? losses = null)
    {
        losses ??= [.. terms.Gains.Zip(terms.Divergences, (gain, d) => -gain + (_options.Beta * d))];
        Tensor Scalar(double value) => tensor(value, ScalarType.Float64, _model.Device).MoveToOuterDisposeScope();
        var metrics = new Dictionary<string, Tensor>
        {
            // Each is a mean over completions once it is divided by their number.
            ["reward"] = Scalar(rollout.Rewards.Sum()),
            ["reward_std"] = Scalar(rollout.Spreads.Sum() * _options.GroupSize),
            ["flat_groups"] = Scalar(rollout.Spreads.Count(s => s == 0) * _options.GroupSize),
            ["kl"] = Scalar(terms.Divergences.Sum()),
            ["completion_length"] = Scalar(TargetTokens.Of(rollout.Batch).Count),
            ["truncated"] = Scalar(rollout.Truncated),
        };
        if (_memory is not null)
        {
            metrics["clip_ratio"] = Scalar(terms.Clipped.Sum());
        }

        return new()
        {
            Weight = rollout.Rewards.Length,
            Sum = Scalar(losses.Sum()),
            BySequence = tensor(losses, ScalarType.Float64, _model.Device).MoveToOuterDisposeScope(),
            SequenceWeights = [.. Enumerable.Repeat(1.0, losses.Length)],
            Metrics = metrics,
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

    // Means over the tokens of each completion.
    private sealed class Terms(int completions)
    {
        public double[] Gains { get; } = new double[completions];

        public double[] Clipped { get; } = new double[completions];

        public double[] Divergences { get; } = new double[completions];
    }
}
