using LoraSharp.Models;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Training.Preferences;

/// <summary>
/// Preferences over one model: the reference is the same model with its adapter switched off, so nothing is held twice.
/// Of n pairs a micro-batch holds the chosen answers first, then the rejected ones; of n judged answers (KTO) those, then
/// each prompt with another's answer, which the divergence is measured on. The labels mark the answers' tokens.
/// </summary>
/// <remarks>
/// The loss of a pair depends on a handful of log-probabilities. They are computed without a graph, the loss's derivatives
/// by them are written down (<see cref="PreferenceLoss"/>), and a second walk through the head weighs each token's
/// cross-entropy with them: logits never exist whole here either.
/// </remarks>
public sealed class PreferenceObjective : ITrainingObjective
{
    private const string Chosen = "rewards/chosen";
    private const string Rejected = "rewards/rejected";
    private const string Margins = "rewards/margins";
    private readonly CausalLanguageModel _model;
    private readonly PreferenceOptions _options;
    private readonly Func<IDisposable> _useReference;
    private readonly ITrainingNoise? _noise;
    private readonly ReferenceCache _cache;
    private readonly ChunkedCrossEntropy _loss;
    private readonly RecomputeDecision _recompute;

    /// <summary>Creates the objective.</summary>
    /// <param name="model">The model with the adapter that is trained.</param>
    /// <param name="options">Which loss.</param>
    /// <param name="training">Recomputation and size of pieces; smoothing and z-loss of tokens are not used here.</param>
    /// <param name="useReference">Makes the model the reference until the result is disposed: <c>adapters.Disable</c>.</param>
    /// <param name="noise">What is random in the model.</param>
    /// <param name="cache">Log-probabilities of the reference; null for one in memory.</param>
    public PreferenceObjective(CausalLanguageModel model, PreferenceOptions options, TrainerOptions training, Func<IDisposable> useReference, ITrainingNoise? noise = null, ReferenceCache? cache = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(training);
        _model = model;
        _options = options;
        _useReference = useReference;
        _noise = noise;
        _cache = cache ?? new ReferenceCache();
        _loss = LanguageModelingObjective.CreateLoss(model, training with { LabelSmoothing = 0, ZLoss = 0 });
        _recompute = new RecomputeDecision(model, training.GradientCheckpointing);
    }

    /// <inheritdoc/>
    public double Weight(MicroBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        return batch.Rows / 2;
    }

    /// <inheritdoc/>
    public MicroBatchLoss Backward(MicroBatch batch, double stepWeight, long seed)
    {
        ArgumentNullException.ThrowIfNull(batch);
        using var scope = NewDisposeScope();
        double divergence = Divergence(batch);
        batch = Judged(batch);
        double[] reference = Reference(batch);
        TargetTokens targets = TargetTokens.Of(batch);
        using IDisposable? noisy = _noise?.Begin(seed);
        using var pass = new ForwardPass(_model, batch, _recompute.For(batch), _noise);
        Tensor selected = targets.Select(pass.Hidden);
        Tensor ids = tensor(targets.Ids, ScalarType.Int64, _model.Device);
        Judgement judged = Judge(batch, targets, _loss.Losses(selected, ids, false, out _), reference, divergence);

        // Cross-entropy is −log p, hence the sign.
        float[] factors = [.. targets.Sequences.Select(s => (float)-judged.Derivatives[s])];
        Tensor gradient = _loss.Backward(selected, ids, tensor(factors, ScalarType.Float32, _model.Device), 1 / stepWeight, out _);
        pass.Backward(selected, gradient);
        return Sums(batch, judged);
    }

    /// <inheritdoc/>
    public MicroBatchLoss Evaluate(MicroBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        using var none = no_grad();
        using var scope = NewDisposeScope();
        double divergence = Divergence(batch);
        batch = Judged(batch);
        TargetTokens targets = TargetTokens.Of(batch);
        return Sums(batch, Judge(batch, targets, TokenLosses(batch, targets), Reference(batch), divergence));
    }

    /// <inheritdoc/>
    public void Derive(IDictionary<string, double> metrics)
    {
        ArgumentNullException.ThrowIfNull(metrics);

        // Of single answers the margin is one of means: no row has both.
        if (_options.Kind == PreferenceKind.Kto && metrics.TryGetValue(Chosen, out double chosen) && metrics.TryGetValue(Rejected, out double rejected))
        {
            metrics[Margins] = chosen - rejected;
        }
    }

    /// <summary>log p of each row's answer, summed over its tokens or a mean of them, as the loss wants it.</summary>
    private double[] LogProbabilities(TargetTokens targets, Tensor losses, int rows)
    {
        using Tensor wide = losses.to(ScalarType.Float64);
        using Tensor host = wide.cpu();
        double[] values = host.data<double>().ToArray();
        double[] sums = new double[rows];
        int[] counts = new int[rows];
        for (int i = 0; i < values.Length; i++)
        {
            sums[targets.Sequences[i]] -= values[i];
            counts[targets.Sequences[i]]++;
        }

        return _options.IsPerToken ? [.. sums.Zip(counts, (s, c) => c == 0 ? 0 : s / c)] : sums;
    }

    private Tensor TokenLosses(MicroBatch batch, TargetTokens targets)
    {
        using var scope = NewDisposeScope();
        using var pass = new ForwardPass(_model, batch, false);
        Tensor ids = tensor(targets.Ids, ScalarType.Int64, _model.Device);
        return _loss.Losses(targets.Select(pass.Hidden), ids, false, out _).MoveToOuterDisposeScope();
    }

    private double[] Reference(MicroBatch batch)
    {
        double[] known = new double[batch.Rows];
        if (!_options.NeedsReference)
        {
            return known;
        }

        string[] keys = [.. Enumerable.Range(0, batch.Rows).Select(r => _cache.KeyOf(batch, r, _options.IsPerToken))];
        bool all = true;
        for (int row = 0; row < known.Length; row++)
        {
            all &= _cache.TryGet(keys[row], out known[row]);
        }

        if (all)
        {
            return known;
        }

        known = UnderReference(batch);
        _cache.Add(keys.Zip(known, KeyValuePair.Create));
        return known;
    }

    private double[] UnderReference(MicroBatch batch)
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        using IDisposable reference = _useReference();
        TargetTokens targets = TargetTokens.Of(batch);
        return LogProbabilities(targets, TokenLosses(batch, targets), batch.Rows);
    }

    // KTO's reference point: KL(policy‖reference) estimated on answers to other prompts (section 4.1 of the paper).
    private double Divergence(MicroBatch batch)
    {
        if (_options.Kind != PreferenceKind.Kto || batch.Rows < 4)
        {
            return 0;
        }

        using var none = no_grad();
        using var scope = NewDisposeScope();
        MicroBatch mismatched = Rows(batch, batch.Rows / 2, batch.Rows / 2);
        TargetTokens targets = TargetTokens.Of(mismatched);
        double[] policy = LogProbabilities(targets, TokenLosses(mismatched, targets), mismatched.Rows);
        double[] reference = UnderReference(mismatched);
        return Math.Max(0, policy.Zip(reference, (p, r) => p - r).Average());
    }

    // The rows that are trained on: all of pairs, the first half of judged answers.
    private MicroBatch Judged(MicroBatch batch) => _options.Kind == PreferenceKind.Kto ? Rows(batch, 0, batch.Rows / 2) : batch;

    private static MicroBatch Rows(MicroBatch batch, int first, int count)
    {
        Range range = (first * batch.Length)..((first + count) * batch.Length);
        return batch with
        {
            Rows = count,
            InputIds = batch.InputIds[range],
            Labels = batch.Labels[range],
            Positions = batch.Positions[range],
            Sequences = batch.Sequences[range],
            Weights = batch.Weights?[range],
            Origins = [.. batch.Origins.Skip(first).Take(count)],
        };
    }

    private Judgement Judge(MicroBatch batch, TargetTokens targets, Tensor losses, double[] reference, double divergence)
    {
        double[] policy = LogProbabilities(targets, losses, batch.Rows);
        Judgement judged = _options.Kind == PreferenceKind.Kto ? Singles(batch, policy, reference, divergence) : Pairs(policy, reference);
        if (_options.IsPerToken)
        {
            // The derivative by a mean is shared by its tokens.
            double[] counts = targets.SequenceWeights();
            for (int row = 0; row < counts.Length; row++)
            {
                judged.Derivatives[row] /= Math.Max(1, counts[row]);
            }
        }

        return judged;
    }

    private Judgement Pairs(double[] policy, double[] reference)
    {
        Judgement judged = new(policy.Length);
        int pairs = policy.Length / 2;
        for (int row = 0; row < pairs; row++)
        {
            PairLogProbabilities pair = new(policy[row], policy[row + pairs], reference[row], reference[row + pairs]);
            PairLoss loss = PreferenceLoss.OfPair(_options, pair);
            (judged.Derivatives[row], judged.Derivatives[row + pairs]) = (loss.ByChosen, loss.ByRejected);
            judged.Losses[row] = loss.Loss;
            double chosen = _options.Beta * (pair.Chosen - pair.ReferenceChosen);
            double rejected = _options.Beta * (pair.Rejected - pair.ReferenceRejected);
            judged.Add(Chosen, chosen);
            judged.Add(Rejected, rejected);
            judged.Add(Margins, chosen - rejected);
            judged.Add("rewards/accuracies", chosen > rejected ? 1 : 0);
            judged.Add("logps/chosen", pair.Chosen);
            judged.Add("logps/rejected", pair.Rejected);
        }

        return judged;
    }

    private Judgement Singles(MicroBatch batch, double[] policy, double[] reference, double divergence)
    {
        IReadOnlyList<bool> verdicts = batch.Desirable ?? throw new InvalidOperationException("a KTO batch needs a verdict for each row");
        Judgement judged = new(policy.Length);
        for (int row = 0; row < policy.Length; row++)
        {
            (judged.Losses[row], judged.Derivatives[row]) = PreferenceLoss.OfJudged(_options, policy[row] - reference[row], divergence, verdicts[row]);
            double reward = _options.Beta * (policy[row] - reference[row]);
            string name = verdicts[row] ? Chosen : Rejected;
            judged.Add(name, reward);
            judged.Rows[name] = judged.Rows.GetValueOrDefault(name) + 1;
            judged.Add("kl", divergence);
        }

        return judged;
    }

    private MicroBatchLoss Sums(MicroBatch batch, Judgement judged) => new()
    {
        Weight = _options.Kind == PreferenceKind.Kto ? batch.Rows : batch.Rows / 2,
        Sum = tensor(judged.Losses.Sum(), ScalarType.Float64, _model.Device).MoveToOuterDisposeScope(),
        BySequence = tensor(judged.Losses, ScalarType.Float64, _model.Device).MoveToOuterDisposeScope(),
        SequenceWeights = [.. Enumerable.Repeat(1.0, judged.Losses.Length)],
        MetricWeights = judged.Rows,
        Metrics = judged.Metrics.ToDictionary(m => m.Key, m => tensor(m.Value, ScalarType.Float64, _model.Device).MoveToOuterDisposeScope()),
    };

    private sealed class Judgement(int rows)
    {
        public double[] Losses { get; } = new double[rows];

        public double[] Derivatives { get; } = new double[rows];

        public SortedDictionary<string, double> Metrics { get; } = new(StringComparer.Ordinal);

        /// <summary>Rows behind a metric that not every row has.</summary>
        public Dictionary<string, double> Rows { get; } = new(StringComparer.Ordinal);

        public void Add(string name, double value) => Metrics[name] = Metrics.GetValueOrDefault(name) + value;
    }
}
