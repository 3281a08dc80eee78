using LoraSharp.Models;
using static TorchSharp.torch;

namespace LoraSharp.Serving.Cache;

/// <summary>
/// The memory of all keys and values: a layer has two tensors of slots, a block is <see cref="BlockSize"/> neighbouring
/// slots in each of them. A sequence finds its tokens by its block table (Kwon et al. 2023, section 4.1).
/// </summary>
/// <remarks>
/// The tensors are made when a layer first stores something, with the sizes of what it stores: families that keep other
/// things than h·e values a token (latent attention) need nothing of their own. On the CPU memory is taken from the
/// system page by page as blocks are first written.
/// </remarks>
/// <param name="layers">Number of decoder layers.</param>
/// <param name="blocks">Number of blocks.</param>
/// <param name="blockSize">Tokens a block.</param>
internal sealed class PagedCache(int layers, int blocks, int blockSize) : IDisposable
{
    private readonly Tensor?[] _keys = new Tensor?[layers];
    private readonly Tensor?[] _values = new Tensor?[layers];

    /// <summary>Tokens a block.</summary>
    public int BlockSize => blockSize;

    /// <summary>Number of blocks.</summary>
    public int Blocks => blocks;

    /// <summary>Makes the tensors [slots, hk, e] of all layers at once, for who writes into them himself; owned by this.</summary>
    public IReadOnlyList<(Tensor Keys, Tensor Values)> Reserve(long heads, long size, ScalarType dtype, Device device)
    {
        for (int layer = 0; layer < layers; layer++)
        {
            _keys[layer] ??= empty([(long)blocks * blockSize, heads, size], dtype, device).DetachFromDisposeScope();
            _values[layer] ??= empty([(long)blocks * blockSize, heads, size], dtype, device).DetachFromDisposeScope();
        }

        return [.. _keys.Zip(_values, (k, v) => (k!, v!))];
    }

    /// <summary>Keys of a layer [slots, hk, e].</summary>
    public Tensor Keys(int layer) => _keys[layer]!;

    /// <summary>Values of a layer [slots, hk, ev].</summary>
    public Tensor Values(int layer) => _values[layer]!;

    /// <summary>Puts new tokens into their slots.</summary>
    /// <param name="layer">Which layer's.</param>
    /// <param name="slots">[n], int64.</param>
    /// <param name="key">[1, hk, n, e].</param>
    /// <param name="value">[1, hk, n, ev].</param>
    public void Store(int layer, Tensor slots, Tensor key, Tensor value)
    {
        using var scope = NewDisposeScope();
        Place(ref _keys[layer], slots, key);
        Place(ref _values[layer], slots, value);
    }

    /// <summary>Bytes that one token takes in all layers.</summary>
    public static long BytesPerToken(DecoderConfig config, ScalarType dtype)
    {
        AttentionConfig a = config.Attention;
        long values = a.Latent is { } latent
            ? (long)a.Heads * (latent.NopeSize + latent.RopeSize + latent.ValueSize)
            : (long)a.KeyValueHeads * (a.KeySize + a.HeadSize);
        return values * config.Layers.Count * (dtype == ScalarType.Float32 ? 4 : 2);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor? tensor in _keys.Concat(_values))
        {
            tensor?.Dispose();
        }
    }

    private void Place(ref Tensor? store, Tensor slots, Tensor fresh)
    {
        long[] shape = fresh.shape;
        store ??= empty([(long)blocks * blockSize, shape[1], shape[3]], fresh.dtype, fresh.device).DetachFromDisposeScope();
        store.index_copy_(0, slots, fresh.squeeze(0).transpose(0, 1));
    }
}
