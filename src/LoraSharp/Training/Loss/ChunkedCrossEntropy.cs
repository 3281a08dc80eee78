using static TorchSharp.torch;

namespace LoraSharp.Training.Loss;

/// <summary>
/// Cross-entropy of hidden states through an output head, a piece of tokens at a time, so that the logits
/// [tokens, vocabulary] never exist whole. The gradient of a piece is written down by hand while its probabilities are
/// at hand: d loss / d logits = softmax − one-hot (with smoothing and z-loss: see <see cref="Backward"/>).
/// </summary>
public sealed class ChunkedCrossEntropy
{
    private readonly Func<Tensor, Tensor> _head;
    private readonly bool _headIsFrozen;
    private readonly double _smoothing;
    private readonly double _zLoss;
    private readonly long _rows;

    /// <summary>Creates the loss.</summary>
    /// <param name="head">Hidden states [1, n, d] → logits [1, n, v], differentiable.</param>
    /// <param name="headIsFrozen">True when the head has nothing that is trained: saves a pass over the logits.</param>
    /// <param name="vocabulary">v.</param>
    /// <param name="chunkElements">Most elements of one piece of logits.</param>
    /// <param name="smoothing">ε: the target's share becomes 1 − ε + ε/v, every other token's ε/v.</param>
    /// <param name="zLoss">λ of λ·log²Z.</param>
    public ChunkedCrossEntropy(Func<Tensor, Tensor> head, bool headIsFrozen, long vocabulary, long chunkElements, double smoothing = 0, double zLoss = 0)
    {
        _head = head;
        _headIsFrozen = headIsFrozen;
        _smoothing = smoothing;
        _zLoss = zLoss;
        _rows = Math.Max(16, chunkElements / Math.Max(1, vocabulary));
    }

    /// <summary>Loss of each token, without a gradient.</summary>
    /// <param name="hidden">[n, d].</param>
    /// <param name="targets">[n], the token each is to predict.</param>
    /// <param name="hits">[n], true where the target has the highest logit; null when not asked for.</param>
    /// <param name="wantHits">Whether to compute <paramref name="hits"/>.</param>
    /// <returns>[n], float32: −log p(target), never smoothed.</returns>
    public Tensor Losses(Tensor hidden, Tensor targets, bool wantHits, out Tensor? hits)
    {
        ArgumentNullException.ThrowIfNull(hidden);
        ArgumentNullException.ThrowIfNull(targets);
        using var none = no_grad();
        using var scope = NewDisposeScope();
        List<Tensor> losses = [], hit = [];
        for (long start = 0; start < hidden.shape[0]; start += _rows)
        {
            using var piece = NewDisposeScope();
            long count = Math.Min(_rows, hidden.shape[0] - start);
            Tensor target = targets.narrow(0, start, count);
            Tensor logits = Logits(hidden.narrow(0, start, count)).to(ScalarType.Float32);
            losses.Add((logits.logsumexp(1) - Pick(logits, target)).MoveToOuterDisposeScope());
            if (wantHits)
            {
                hit.Add(logits.argmax(1).eq(target).MoveToOuterDisposeScope());
            }
        }

        hits = wantHits ? cat(hit, 0).MoveToOuterDisposeScope() : null;
        return cat(losses, 0).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Losses and their gradient: adds to the gradients of the head's trainable tensors and returns that of the hidden
    /// states.
    /// </summary>
    /// <param name="hidden">[n, d]; its own graph is not touched.</param>
    /// <param name="targets">[n].</param>
    /// <param name="weights">[n] float32 factors on each token's loss; null for 1.</param>
    /// <param name="scale">Factor on everything, 1 / (weight of the whole optimizer step).</param>
    /// <param name="losses">[n] float32, unweighted and unscaled.</param>
    /// <returns>[n, d]: scale·Σ weight·loss differentiated by the hidden states.</returns>
    /// <remarks>
    /// With p = softmax(z): ∂/∂z of (1−ε)·(−log p_y) − ε/v·Σ log p + λ·log²Z is (1 + 2λ·log Z)·p − (1−ε)·onehot − ε/v.
    /// </remarks>
    public Tensor Backward(Tensor hidden, Tensor targets, Tensor? weights, double scale, out Tensor losses)
    {
        ArgumentNullException.ThrowIfNull(hidden);
        ArgumentNullException.ThrowIfNull(targets);
        using var scope = NewDisposeScope();
        Tensor detached = hidden.detach();
        List<Tensor> loss = [], gradients = [];
        for (long start = 0; start < hidden.shape[0]; start += _rows)
        {
            using var piece = NewDisposeScope();
            long count = Math.Min(_rows, hidden.shape[0] - start);
            Tensor input = detached.narrow(0, start, count).requires_grad_();
            (Tensor token, Tensor gradient) = Piece(input, targets.narrow(0, start, count), weights?.narrow(0, start, count), scale);
            loss.Add(token.MoveToOuterDisposeScope());
            gradients.Add(gradient.MoveToOuterDisposeScope());
        }

        losses = (loss.Count == 1 ? loss[0] : cat(loss, 0)).MoveToOuterDisposeScope();
        return (gradients.Count == 1 ? gradients[0] : cat(gradients, 0)).MoveToOuterDisposeScope();
    }

    private static Tensor Pick(Tensor values, Tensor target) => values.gather(1, target.unsqueeze(1)).squeeze(1);

    private Tensor Logits(Tensor hidden) => _head(hidden.unsqueeze(0)).squeeze(0);

    private (Tensor Loss, Tensor Gradient) Piece(Tensor input, Tensor target, Tensor? weights, double scale)
    {
        Tensor logits;
        using (enable_grad())
        {
            logits = Logits(input);
        }

        Tensor loss, derivative;
        using (no_grad())
        {
            Tensor logP = logits.detach().to(ScalarType.Float32).log_softmax(1);
            Tensor logPOfTarget = Pick(logP, target);
            loss = logPOfTarget.neg();
            Tensor? logZ = null;
            if (_zLoss > 0)
            {
                logZ = Pick(logits.detach(), target).to(ScalarType.Float32) - logPOfTarget;
            }

            if (_smoothing > 0)
            {
                loss = (loss * (1 - _smoothing)) - (logP.mean([1]) * _smoothing);
            }

            // From here on logP's memory becomes the derivative.
            derivative = logP.exp_();
            if (logZ is not null)
            {
                loss = loss + (logZ * logZ * _zLoss);
                derivative.mul_((logZ * (2 * _zLoss)).add_(1).unsqueeze(1));
            }

            if (_smoothing > 0)
            {
                derivative.sub_(_smoothing / derivative.shape[1]);
            }

            Tensor share = full([target.shape[0], 1], -(1 - _smoothing), ScalarType.Float32, device: target.device);
            derivative.scatter_add_(1, target.unsqueeze(1), share);
            if (!_headIsFrozen)
            {
                derivative.mul_(weights is null ? (Tensor)scale : (weights * scale).unsqueeze(1));
            }

            derivative = derivative.to(logits.dtype);
        }

        logits.backward([derivative]);
        Tensor gradient = input.grad!;
        if (_headIsFrozen)
        {
            // The head is linear in its gradient, so factors may as well go onto the small side of the product.
            using var none = no_grad();
            Tensor factor = weights is null ? (Tensor)scale : (weights * scale).unsqueeze(1);
            gradient = gradient.mul(factor.to(gradient.dtype));
        }

        return (loss, gradient);
    }
}
