using LoraSharp.Models;
using LoraSharp.Training.Data;
using static TorchSharp.torch;

namespace LoraSharp.Training.Loss;

/// <summary>Next-token prediction: the mean of −log p over the supervised tokens of the optimizer step.</summary>
public sealed class LanguageModelingObjective : ITrainingObjective
{
    private readonly CausalLanguageModel _model;
    private readonly ITrainingNoise? _noise;
    private readonly ChunkedCrossEntropy _loss;
    private readonly RecomputeDecision _recompute;

    /// <summary>Creates the objective.</summary>
    /// <param name="model">The model with what is trained in it.</param>
    /// <param name="options">Smoothing, z-loss, recomputation, size of the pieces of logits.</param>
    /// <param name="noise">What is random in the model; null for nothing.</param>
    public LanguageModelingObjective(CausalLanguageModel model, TrainerOptions options, ITrainingNoise? noise = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        _model = model;
        _noise = noise;
        _loss = CreateLoss(model, options);
        _recompute = new RecomputeDecision(model, options.GradientCheckpointing);
    }

    /// <inheritdoc/>
    public bool IsLikelihood => true;

    /// <inheritdoc/>
    public double Weight(MicroBatch batch) => TargetTokens.Of(batch).Weight;

    /// <inheritdoc/>
    public MicroBatchLoss Backward(MicroBatch batch, double stepWeight, long seed)
    {
        ArgumentNullException.ThrowIfNull(batch);
        using var scope = NewDisposeScope();
        TargetTokens targets = TargetTokens.Of(batch);
        if (targets.Count == 0)
        {
            return Sums(targets, empty(0, ScalarType.Float32, _model.Device), null, null);
        }

        using IDisposable? noisy = _noise?.Begin(seed);
        using var pass = new ForwardPass(_model, batch, _recompute.For(batch), _noise);
        (Tensor ids, Tensor? weights) = Upload(targets);
        Tensor selected = targets.Select(pass.Hidden);
        Tensor gradient = _loss.Backward(selected, ids, weights, 1 / stepWeight, out Tensor losses);
        pass.Backward(selected, gradient);
        return Sums(targets, losses, weights, null);
    }

    /// <inheritdoc/>
    public MicroBatchLoss Evaluate(MicroBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        using var none = no_grad();
        using var scope = NewDisposeScope();
        TargetTokens targets = TargetTokens.Of(batch);
        if (targets.Count == 0)
        {
            Tensor nothing = empty(0, ScalarType.Float32, _model.Device);
            return Sums(targets, nothing, null, nothing);
        }

        using var pass = new ForwardPass(_model, batch, false);
        (Tensor ids, Tensor? weights) = Upload(targets);
        Tensor losses = _loss.Losses(targets.Select(pass.Hidden), ids, true, out Tensor? hits);
        return Sums(targets, losses, weights, hits);
    }

    /// <summary>The chunked cross-entropy through a model's own head, its logits divided by a temperature.</summary>
    internal static ChunkedCrossEntropy CreateLoss(CausalLanguageModel model, TrainerOptions options, double temperature = 1) => new(
        temperature == 1 ? model.Logits : hidden => model.Logits(hidden) / temperature,
        !model.Head.Parameters.Any(p => p.Value.requires_grad),
        model.Config.VocabularySize,
        options.LogitElements,
        options.LabelSmoothing,
        options.ZLoss);

    private static MicroBatchLoss Sums(TargetTokens targets, Tensor losses, Tensor? weights, Tensor? hits)
    {
        Tensor weighted = weights is null ? losses : losses * weights;
        Dictionary<string, Tensor> metrics = [];
        if (hits is not null)
        {
            Tensor counted = hits.to(ScalarType.Float64);
            metrics.Add("accuracy", (weights is null ? counted : counted * weights).sum().MoveToOuterDisposeScope());
        }

        return new()
        {
            Weight = targets.Weight,
            Sum = weighted.sum(ScalarType.Float64).MoveToOuterDisposeScope(),
            BySequence = targets.SumBySequence(weighted).MoveToOuterDisposeScope(),
            SequenceWeights = targets.SequenceWeights(),
            Metrics = metrics,
        };
    }

    private (Tensor Ids, Tensor? Weights) Upload(TargetTokens targets) => (
        tensor(targets.Ids, ScalarType.Int64, _model.Device),
        targets.Weights is null ? null : tensor(targets.Weights, ScalarType.Float32, _model.Device));
}
