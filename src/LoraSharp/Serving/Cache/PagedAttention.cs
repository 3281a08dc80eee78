using LoraSharp.Kernels.Cpu;
using LoraSharp.Layers;
using LoraSharp.Serving.Scheduling;
using static TorchSharp.torch;

namespace LoraSharp.Serving.Cache;

/// <summary>
/// Attention of one step: pieces of several sequences lie one after the other in a single row of n tokens, and each
/// attends to its own blocks. On the CPU a kernel reads the blocks where they are, token by token, so that it makes no
/// difference how a prompt was cut; elsewhere libtorch's operators work on keys and values gathered from the blocks.
/// </summary>
internal sealed class PagedAttention : AttentionContext, IDisposable
{
    private readonly PagedCache _cache;
    private readonly IReadOnlyList<StepChunk> _chunks;
    private readonly bool _plain;
    private readonly Tensor _slots;
    private readonly Tensor?[] _gathered;
    private readonly Dictionary<(int Chunk, int Window), Tensor> _masks = [];
    private readonly int[] _tables;
    private readonly PagedAttentionKernel.Row[] _rows;

    /// <summary>Prepares a step.</summary>
    /// <param name="cache">Where keys and values lie.</param>
    /// <param name="chunks">In the order of the tokens; their sequences have blocks for them.</param>
    /// <param name="device">The model's.</param>
    /// <param name="plain">Without the kernel: the reference it is tested against.</param>
    public PagedAttention(PagedCache cache, IReadOnlyList<StepChunk> chunks, Device device, bool plain = false)
    {
        _cache = cache;
        _chunks = chunks;
        _plain = plain;
        _gathered = new Tensor?[chunks.Count];
        var tables = new List<int>();
        var rows = new List<PagedAttentionKernel.Row>();
        var slots = new List<long>();
        foreach (StepChunk chunk in chunks)
        {
            ReadOnlySpan<int> table = chunk.Sequence.Blocks.Table;
            for (int t = chunk.Start; t < chunk.Start + chunk.Count; t++)
            {
                rows.Add(new(slots.Count, tables.Count, t + 1));
                slots.Add(Slot(table, t));
            }

            tables.AddRange(table);
        }

        _tables = [.. tables];
        _rows = [.. rows];
        using Tensor host = tensor(slots.ToArray());
        _slots = host.to(device, copy: true).DetachFromDisposeScope();
    }

    /// <inheritdoc/>
    public override Tensor Attend(int layer, Tensor query, Tensor key, Tensor value, AttentionSpec spec)
    {
        using var scope = NewDisposeScope();
        _cache.Store(layer, _slots, key, value);
        long h = query.shape[1], n = query.shape[2], ev = value.shape[3];
        bool kernel = !_plain && CpuKernels.Take(query) && query.dtype == key.dtype && query.stride(3) == 1 && spec.Sinks?.dtype is null or ScalarType.Float32 or ScalarType.BFloat16;
        if (_chunks.Count == 1 && !kernel)
        {
            return Chunk(0, layer, query, key, value, spec).MoveToOuterDisposeScope();
        }

        // [n, h, ev]: the output projection reads it so, without a copy.
        Tensor y = empty([n, h, ev], query.dtype, query.device);
        if (kernel)
        {
            var settings = new DecodeAttention.Settings((float)spec.Scale, (float)(spec.SoftCap ?? 0));
            PagedAttentionKernel.Attend(query, _cache.Keys(layer), _cache.Values(layer), y, _rows, _tables, _cache.BlockSize, spec.Window ?? 0, settings, spec.Sinks?.to(query.dtype));
            return y.unsqueeze(0).transpose(1, 2).MoveToOuterDisposeScope();
        }

        long at = 0;
        for (int i = 0; i < _chunks.Count; i++)
        {
            using var one = NewDisposeScope();
            int count = _chunks[i].Count;
            Tensor mixed = Chunk(i, layer, query.narrow(2, at, count), key.narrow(2, at, count), value.narrow(2, at, count), spec);
            y.narrow(0, at, count).copy_(mixed.squeeze(0).transpose(0, 1));
            at += count;
        }

        return y.unsqueeze(0).transpose(1, 2).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _slots.Dispose();
        foreach (Tensor? tensor in _gathered.Concat(_masks.Values))
        {
            tensor?.Dispose();
        }
    }

    private Tensor Chunk(int index, int layer, Tensor query, Tensor key, Tensor value, AttentionSpec spec)
    {
        StepChunk chunk = _chunks[index];
        int t = chunk.Start + chunk.Count;
        int window = spec.Window is { } size && size < t ? size : 0;
        bool fuse = AttentionMath.CanFuse(spec, query, value);
        if (fuse && chunk.Start == 0 && window == 0)
        {
            return AttentionMath.Fused(query, key, value, spec.Scale, null, causal: true);
        }

        Tensor slots = _gathered[index] ??= Slots(chunk, query.device);
        Tensor keys = _cache.Keys(layer).index_select(0, slots).transpose(0, 1).unsqueeze(0);
        Tensor values = _cache.Values(layer).index_select(0, slots).transpose(0, 1).unsqueeze(0);
        Tensor seen = Mask(index, window, query.device);
        return fuse
            ? AttentionMath.Fused(query, keys, values, spec.Scale, seen, causal: false)
            : AttentionMath.Plain(query, keys, values, spec, AttentionMath.ToBias(seen));
    }

    private Tensor Slots(StepChunk chunk, Device device)
    {
        long[] slots = new long[chunk.Start + chunk.Count];
        ReadOnlySpan<int> table = chunk.Sequence.Blocks.Table;
        for (int t = 0; t < slots.Length; t++)
        {
            slots[t] = Slot(table, t);
        }

        using Tensor host = tensor(slots);
        return host.to(device, copy: true).DetachFromDisposeScope();
    }

    // [1, 1, s, t]
    private Tensor Mask(int index, int window, Device device)
    {
        if (!_masks.TryGetValue((index, window), out Tensor? mask))
        {
            using var scope = NewDisposeScope();
            StepChunk chunk = _chunks[index];
            Tensor queries = arange(chunk.Start, chunk.Start + chunk.Count, ScalarType.Int64, device).unsqueeze(1);
            Tensor distance = queries - arange(0, chunk.Start + chunk.Count, ScalarType.Int64, device).unsqueeze(0);
            Tensor seen = distance.ge(0);
            mask = (window > 0 ? seen.logical_and(distance.lt(window)) : seen).unsqueeze(0).unsqueeze(0).DetachFromDisposeScope();
            _masks[(index, window)] = mask;
        }

        return mask;
    }

    private long Slot(ReadOnlySpan<int> table, int token) => ((long)table[token / _cache.BlockSize] * _cache.BlockSize) + (token % _cache.BlockSize);
}
