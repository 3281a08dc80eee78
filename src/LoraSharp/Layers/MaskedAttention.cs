using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>
/// Attention within the rows of one forward pass, without a cache: for training and evaluation. Masks are made once and
/// shared by all layers with the same window.
/// </summary>
public abstract class MaskedAttention : AttentionContext, IDisposable
{
    private readonly Dictionary<(long Length, int Window), (Tensor Seen, Tensor? Bias)> _masks = [];

    /// <inheritdoc/>
    public override Tensor Attend(int layer, Tensor query, Tensor key, Tensor value, AttentionSpec spec)
    {
        ArgumentNullException.ThrowIfNull(query);
        ArgumentNullException.ThrowIfNull(value);
        ArgumentNullException.ThrowIfNull(spec);
        long s = query.shape[2];
        int window = spec.Window is { } w && w < s ? w : 0;
        bool fuse = AttentionMath.CanFuse(spec, query, value);
        if (fuse && window == 0 && IsPlainlyCausal)
        {
            return AttentionMath.Fused(query, key, value, spec.Scale, null, causal: true);
        }

        (Tensor seen, Tensor? bias) = Mask(s, window, query.device, needsBias: !fuse);
        return fuse
            ? AttentionMath.Fused(query, key, value, spec.Scale, seen, causal: false)
            : AttentionMath.Plain(query, key, value, spec, bias);
    }

    /// <summary>Frees the masks.</summary>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>True when a token sees exactly those before it, so that no mask is needed.</summary>
    protected abstract bool IsPlainlyCausal { get; }

    /// <summary>True where a query sees a key beside the triangle and the window, broadcast to [b, 1, s, s]; null for everywhere.</summary>
    protected abstract Tensor? Visible(long length, Device device);

    /// <summary>Frees the masks.</summary>
    protected virtual void Dispose(bool disposing)
    {
        foreach ((Tensor seen, Tensor? bias) in _masks.Values)
        {
            seen.Dispose();
            bias?.Dispose();
        }

        _masks.Clear();
    }

    private (Tensor Seen, Tensor? Bias) Mask(long length, int window, Device device, bool needsBias)
    {
        if (!_masks.TryGetValue((length, window), out (Tensor Seen, Tensor? Bias) mask))
        {
            using var scope = NewDisposeScope();
            Tensor index = arange(length, ScalarType.Int64, device);
            Tensor distance = index.unsqueeze(1) - index.unsqueeze(0);
            Tensor seen = distance.ge(0);
            if (window > 0)
            {
                seen = seen.logical_and(distance.lt(window));
            }

            seen = seen.view(1, 1, length, length);
            if (Visible(length, device) is { } visible)
            {
                // Every token sees itself, padding too: a row of the softmax without a single key would be NaN.
                seen = seen.logical_and(visible).logical_or(distance.eq(0));
            }

            mask = (seen.DetachFromDisposeScope(), null);
            _masks[(length, window)] = mask;
        }

        if (needsBias && mask.Bias is null)
        {
            mask = (mask.Seen, AttentionMath.ToBias(mask.Seen).DetachFromDisposeScope());
            _masks[(length, window)] = mask;
        }

        return mask;
    }
}

/// <summary>Causal attention within padded rows.</summary>
public sealed class PaddedAttention : MaskedAttention
{
    private readonly Tensor? _mask;
    private readonly bool _isCausal;

    /// <summary>Creates the context for one forward pass.</summary>
    /// <param name="mask">[b, s], not 0 at real tokens; null when there is no padding.</param>
    public PaddedAttention(Tensor? mask = null)
    {
        using var scope = NewDisposeScope();
        _mask = mask?.ne(0).DetachFromDisposeScope();

        // With padding at the end only, the triangle alone keeps it from every real token.
        _isCausal = _mask is null || _mask.shape[1] == 1 ||
            !_mask.narrow(1, 0, _mask.shape[1] - 1).logical_not().logical_and(_mask.narrow(1, 1, _mask.shape[1] - 1)).any().item<bool>();
    }

    /// <inheritdoc/>
    protected override bool IsPlainlyCausal => _isCausal;

    /// <inheritdoc/>
    protected override Tensor? Visible(long length, Device device) => _isCausal ? null : _mask!.to(device).view(_mask.shape[0], 1, 1, length);

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _mask?.Dispose();
    }
}
