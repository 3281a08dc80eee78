using LoraSharp.Models;
using LoraSharp.Training.Data;
using static TorchSharp.torch;

namespace LoraSharp.Training.Loss;

/// <summary>A loss of single tokens, as ordinary differentiable tensor code.</summary>
/// <param name="logits">[n, v] of n supervised positions, float32, with gradient.</param>
/// <param name="targets">[n], the token each is to predict.</param>
/// <returns>[n], the losses.</returns>
public delegate Tensor TokenLoss(Tensor logits, Tensor targets);

/// <summary>
/// Next-token prediction with a loss of one's own: focal loss, a margin, an entropy bonus. The loss function sees the
/// supervised tokens piece by piece, so logits never exist whole; weights of tokens and of the optimizer step are applied here.
/// </summary>
public sealed class TokenLossObjective : ITrainingObjective
{
    private readonly CausalLanguageModel _model;
    private readonly TokenLoss _loss;
    private readonly ITrainingNoise? _noise;
    private readonly RecomputeDecision _recompute;
    private readonly long _piece;

    /// <summary>Creates the objective.</summary>
    /// <param name="model">The model with what is trained in it.</param>
    /// <param name="options">Recomputation, size of the pieces of logits.</param>
    /// <param name="loss">The loss of each token.</param>
    /// <param name="noise">What is random in the model; null for nothing.</param>
    public TokenLossObjective(CausalLanguageModel model, TrainerOptions options, TokenLoss loss, ITrainingNoise? noise = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(options);
        _model = model;
        _loss = loss;
        _noise = noise;
        _recompute = new RecomputeDecision(model, options.GradientCheckpointing);
        _piece = Math.Max(16, options.LogitElements / model.Config.VocabularySize);
    }

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
            return Sums(targets, empty(0, ScalarType.Float32, _model.Device), null);
        }

        using IDisposable? noisy = _noise?.Begin(seed);
        using var pass = new ForwardPass(_model, batch, _recompute.For(batch), _noise);
        (Tensor ids, Tensor weights) = Upload(targets);
        Tensor selected = targets.Select(pass.Hidden);
        Tensor detached = selected.detach();
        List<Tensor> losses = [], gradients = [];
        foreach ((long start, long count) in Pieces(targets.Count))
        {
            using var piece = NewDisposeScope();
            Tensor hidden = detached.narrow(0, start, count).requires_grad_();
            Tensor loss = Losses(hidden, ids.narrow(0, start, count));
            loss.mul(weights.narrow(0, start, count)).sum().div(stepWeight).backward();
            losses.Add(loss.detach().MoveToOuterDisposeScope());
            gradients.Add(hidden.grad!.MoveToOuterDisposeScope());
        }

        pass.Backward(selected, cat(gradients, 0));
        return Sums(targets, cat(losses, 0), weights);
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
            return Sums(targets, empty(0, ScalarType.Float32, _model.Device), null);
        }

        using var pass = new ForwardPass(_model, batch, false);
        (Tensor ids, Tensor weights) = Upload(targets);
        Tensor selected = targets.Select(pass.Hidden);
        Tensor[] losses = [.. Pieces(targets.Count).Select(p => Losses(selected.narrow(0, p.Start, p.Count), ids.narrow(0, p.Start, p.Count)))];
        return Sums(targets, cat(losses, 0), weights);
    }

    private IEnumerable<(long Start, long Count)> Pieces(long count)
    {
        for (long start = 0; start < count; start += _piece)
        {
            yield return (start, Math.Min(_piece, count - start));
        }
    }

    private Tensor Losses(Tensor hidden, Tensor targets)
    {
        using var scope = NewDisposeScope();
        return _loss(_model.Logits(hidden.unsqueeze(0)).squeeze(0).to(ScalarType.Float32), targets).MoveToOuterDisposeScope();
    }

    private (Tensor Ids, Tensor Weights) Upload(TargetTokens targets) => (
        tensor(targets.Ids, ScalarType.Int64, _model.Device),
        targets.Weights is null ? ones(targets.Count, ScalarType.Float32, _model.Device) : tensor(targets.Weights, ScalarType.Float32, _model.Device));

    private static MicroBatchLoss Sums(TargetTokens targets, Tensor losses, Tensor? weights)
    {
        Tensor weighted = weights is null ? losses : losses * weights;
        return new()
        {
            Weight = targets.Weight,
            Sum = weighted.sum(ScalarType.Float64).MoveToOuterDisposeScope(),
            BySequence = targets.SumBySequence(weighted).MoveToOuterDisposeScope(),
            SequenceWeights = targets.SequenceWeights(),
        };
    }
}
