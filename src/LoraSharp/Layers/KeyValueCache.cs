using LoraSharp.Formats;
using LoraSharp.Kernels.Cpu;
using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>
/// Keys and values of everything seen so far, dense, for generation: call the model first with the prompt, then with
/// one token (or a few) at a time. Buffers are preallocated and grow; a layer with a sliding window keeps only what the
/// window can still see. Not for training: no gradient flows into the cache.
/// </summary>
public sealed class KeyValueCache : AttentionContext, IDisposable
{
    private readonly LayerCache[] _layers;
    private Tensor? _promptMask;
    private readonly int _capacity;
    private readonly Dictionary<(long, long, int), Tensor> _masks = [];

    /// <summary>Creates an empty cache.</summary>
    /// <param name="layers">Number of decoder layers.</param>
    /// <param name="promptMask">[b, s] of the first pass, not 0 at real tokens, padded on either side; null when there is no padding.</param>
    /// <param name="capacity">Tokens to make room for at once.</param>
    public KeyValueCache(int layers, Tensor? promptMask = null, int capacity = 256)
    {
        _layers = new LayerCache[layers];
        for (int i = 0; i < layers; i++)
        {
            _layers[i] = new LayerCache();
        }

        _promptMask = promptMask?.ne(0).DetachFromDisposeScope();
        _capacity = Math.Max(1, capacity);
    }

    /// <summary>Tokens a row that the cache has seen, padding included.</summary>
    public long Length => _layers.Length == 0 ? 0 : _layers[^1].Seen;

    /// <inheritdoc/>
    public override Tensor Attend(int layer, Tensor query, Tensor key, Tensor value, AttentionSpec spec)
    {
        ArgumentNullException.ThrowIfNull(query);
        ArgumentNullException.ThrowIfNull(key);
        ArgumentNullException.ThrowIfNull(value);
        ArgumentNullException.ThrowIfNull(spec);
        using var scope = NewDisposeScope();
        LayerCache cache = _layers[layer];
        long s = query.shape[2];
        long past = cache.Seen;
        cache.Append(key.detach(), value.detach(), _promptMask is null ? spec.Window : null, _capacity);
        long t = cache.Count;
        if (s == 1 && _promptMask is null)
        {
            long visible = spec.Window is { } w ? Math.Min(w, t) : t;
            Tensor recentKeys = cache.Keys.narrow(2, t - visible, visible);
            Tensor recentValues = cache.Values.narrow(2, t - visible, visible);
            return (CpuKernels.Take(query) && query.dtype == key.dtype && spec.Sinks?.dtype is null or ScalarType.Float32 or ScalarType.BFloat16
                ? Kernel(query, recentKeys, recentValues, spec)
                : AttentionMath.Plain(query, recentKeys, recentValues, spec, null)).MoveToOuterDisposeScope();
        }

        bool fuse = AttentionMath.CanFuse(spec, query, value);
        int window = spec.Window is { } size && size < t ? size : 0;
        if (fuse && past == 0 && window == 0 && _promptMask is null)
        {
            return AttentionMath.Fused(query, key, value, spec.Scale, null, causal: true).MoveToOuterDisposeScope();
        }

        Tensor keys = cache.Keys.narrow(2, 0, t);
        Tensor values = cache.Values.narrow(2, 0, t);
        Tensor seen = Mask(past, s, cache.Dropped, t, window, query.device);
        return (fuse
            ? AttentionMath.Fused(query, keys, values, spec.Scale, seen, causal: false)
            : AttentionMath.Plain(query, keys, values, spec, AttentionMath.ToBias(seen))).MoveToOuterDisposeScope();
    }

    /// <summary>Forgets everything after the first <paramref name="length"/> tokens, to go on from a common beginning.</summary>
    /// <exception cref="LoraSharpException">A sliding window has dropped what would be needed: start over.</exception>
    public void Truncate(long length)
    {
        if (_layers.Any(l => l.Seen > length && l.Dropped > 0))
        {
            throw new LoraSharpException("The cache of a layer with a sliding window has dropped earlier tokens and cannot go back. Create a new cache.");
        }

        foreach (LayerCache cache in _layers)
        {
            cache.Seen = Math.Min(cache.Seen, length);
        }
    }

    /// <summary>
    /// Goes on with every row <paramref name="count"/> times, copies side by side: several continuations of a prompt that was
    /// run once.
    /// </summary>
    public void RepeatRows(int count)
    {
        using var scope = NewDisposeScope();
        foreach (LayerCache cache in _layers)
        {
            cache.RepeatRows(count);
        }

        Tensor? before = _promptMask;
        _promptMask = before?.repeat_interleave(count, 0).DetachFromDisposeScope();
        before?.Dispose();
        ForgetMasks();
    }

    /// <summary>Frees the buffers.</summary>
    public void Dispose()
    {
        foreach (LayerCache cache in _layers)
        {
            cache.Dispose();
        }

        ForgetMasks();
        _promptMask?.Dispose();
    }

    private static Tensor Kernel(Tensor query, Tensor keys, Tensor values, AttentionSpec spec) =>
        DecodeAttention.Attend(query.contiguous(), keys, values, new((float)spec.Scale, (float)(spec.SoftCap ?? 0)), spec.Sinks?.to(query.dtype));

    // [b|1, 1, s, t]: key slots dropped.. against query slots past..past+s.
    private Tensor Mask(long past, long s, long dropped, long t, int window, Device device)
    {
        (long, long, int) place = (past, dropped, window);
        if (_masks.TryGetValue(place, out Tensor? mask))
        {
            return mask;
        }

        if (_masks.Keys.Any(k => k.Item1 != past))
        {
            ForgetMasks();
        }

        using var scope = NewDisposeScope();
        Tensor keySlots = arange(dropped, dropped + t, ScalarType.Int64, device);
        Tensor querySlots = arange(past, past + s, ScalarType.Int64, device);
        Tensor seen = querySlots.unsqueeze(1).ge(keySlots.unsqueeze(0)).view(1, 1, s, t);
        Tensor distance = (querySlots.unsqueeze(1) - keySlots.unsqueeze(0)).view(1, 1, s, t);
        Tensor itself = distance.eq(0);
        if (_promptMask is not null)
        {
            // Nothing is ever dropped then, so slot = column. Distances are between positions: padding does not count.
            long prompt = _promptMask.shape[1];
            Tensor valid = _promptMask.to(device);
            valid = t <= prompt ? valid.narrow(1, 0, t) : cat([valid, ones([valid.shape[0], t - prompt], ScalarType.Bool, device)], 1);
            Tensor positions = valid.to(ScalarType.Int64).cumsum(1);
            distance = positions.narrow(1, past, s).unsqueeze(2).sub(positions.unsqueeze(1)).unsqueeze(1);
            seen = seen.logical_and(valid.view(valid.shape[0], 1, 1, t));
        }

        if (window > 0)
        {
            seen = seen.logical_and(distance.lt(window));
        }

        mask = seen.logical_or(itself).DetachFromDisposeScope();
        _masks[place] = mask;
        return mask;
    }

    private void ForgetMasks()
    {
        foreach (Tensor mask in _masks.Values)
        {
            mask.Dispose();
        }

        _masks.Clear();
    }

    private sealed class LayerCache : IDisposable
    {
        private Tensor? _keys;
        private Tensor? _values;

        /// <summary>Tokens seen so far.</summary>
        public long Seen { get; set; }

        /// <summary>Tokens that a window let go of.</summary>
        public long Dropped { get; private set; }

        /// <summary>Tokens held.</summary>
        public long Count => Seen - Dropped;

        public Tensor Keys => _keys!;

        public Tensor Values => _values!;

        public void Append(Tensor key, Tensor value, int? window, int capacity)
        {
            using var scope = NewDisposeScope();
            using var frozen = no_grad();
            long s = key.shape[2];
            long held = Count;
            if (_keys is null || held + s > _keys.shape[2])
            {
                // What the first of the new tokens can still see of the old ones.
                long keep = window is { } w ? Math.Min(held, w - 1) : held;
                long room = keep + s + Math.Max(capacity, keep);
                _keys = Moved(_keys, key, held, keep, room);
                _values = Moved(_values, value, held, keep, room);
                Dropped += held - keep;
                held = keep;
            }

            _keys.narrow(2, held, s).copy_(key);
            _values!.narrow(2, held, s).copy_(value);
            Seen += s;
        }

        public void RepeatRows(int count)
        {
            (Tensor? keys, Tensor? values) = (_keys, _values);
            _keys = keys?.repeat_interleave(count, 0).DetachFromDisposeScope();
            _values = values?.repeat_interleave(count, 0).DetachFromDisposeScope();
            keys?.Dispose();
            values?.Dispose();
        }

        public void Dispose()
        {
            _keys?.Dispose();
            _values?.Dispose();
            _keys = _values = null;
        }

        private static Tensor Moved(Tensor? old, Tensor like, long held, long keep, long room)
        {
            Tensor buffer = empty([like.shape[0], like.shape[1], room, like.shape[3]], like.dtype, like.device).DetachFromDisposeScope();
            if (old is not null)
            {
                buffer.narrow(2, 0, keep).copy_(old.narrow(2, held - keep, keep));
                old.Dispose();
            }

            return buffer;
        }
    }
}
