using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Serving.Cuda;

/// <summary>A and B of one linear layer, as an adapter's owner gives them.</summary>
/// <param name="A">[r, k].</param>
/// <param name="B">[f, r].</param>
/// <param name="Scaling">alpha/r, or as the variant has it.</param>
internal readonly record struct LowRankPair(Tensor A, Tensor B, double Scaling);

/// <summary>
/// The adapters that are on the device: a slot each, at their true ranks, found by the kernels through a table of
/// addresses (fused_decode.cu, "The table of adapters").
/// </summary>
internal sealed class DecoderAdapters : IDisposable
{
    private const int EntrySize = 16;
    private const int Groups = 4;
    private readonly DecoderWeights _weights;
    private readonly Device _device;
    private readonly Tensor _table;
    private readonly Tensor[] _views;
    private readonly Dictionary<int, List<Tensor>> _loaded = [];
    private readonly Dictionary<int, long[]> _ranks = [];

    /// <summary>Makes an empty pool.</summary>
    public DecoderAdapters(DecoderWeights weights, int slots, Device device)
    {
        _weights = weights;
        _device = device;
        Slots = slots;
        using var scope = NewDisposeScope();
        _table = zeros([weights.LayerCount * Groups, slots, EntrySize], ScalarType.Int64, device).DetachFromDisposeScope();
        _views = [.. Enumerable.Range(0, weights.LayerCount * Groups).Select(i => _table[i].DetachFromDisposeScope())];
    }

    /// <summary>How many fit.</summary>
    public int Slots { get; }

    /// <summary>Bytes of the factors that are loaded.</summary>
    public long Bytes => _loaded.Values.SelectMany(t => t).Sum(t => t.NumberOfElements * t.ElementSize);

    /// <summary>Largest sum of ranks in each of a layer's four matrices, over all loaded adapters.</summary>
    public long[] LargestRanks => [.. Enumerable.Range(0, Groups).Select(g => _ranks.Values.Select(r => r[g]).DefaultIfEmpty(0).Max())];

    /// <summary>The entries [slots, 16] of a layer's matrix.</summary>
    public Tensor Table(int layer, int group) => _views[(layer * Groups) + group];

    /// <summary>Copies an adapter into a slot as bf16, in the place of what was there. Nothing may run on that slot meanwhile.</summary>
    /// <param name="slot">Which.</param>
    /// <param name="find">Gives the pair of a layer's linear (<see cref="Models.LlamaTensors.LinearGroups"/>), or null where it is not adapted.</param>
    public void Load(int slot, Func<int, string, LowRankPair?> find)
    {
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        var tensors = new List<Tensor>();
        long[] ranks = new long[Groups];
        long[] entries = new long[_weights.LayerCount * Groups * EntrySize];
        for (int layer = 0; layer < _weights.LayerCount; layer++)
        {
            for (int group = 0; group < Groups; group++)
            {
                LowRankPair?[] pairs = [.. Models.LlamaTensors.LinearGroups[group].Select(name => find(layer, name))];
                long rank = pairs.Sum(p => p?.A.shape[0] ?? 0);
                if (rank == 0)
                {
                    continue;
                }

                ranks[group] = Math.Max(ranks[group], rank);
                Span<long> entry = entries.AsSpan(((layer * Groups) + group) * EntrySize, EntrySize);
                Tensor stacked = Keep(cat([.. pairs.OfType<LowRankPair>().Select(p => p.A.to(ScalarType.BFloat16, _device))], 0));
                entry[0] = AtenTensor.DataPointer(stacked);
                entry[1] = rank;
                long first = 0;
                for (int part = 0; part < pairs.Length; part++)
                {
                    if (pairs[part] is not { } pair)
                    {
                        continue;
                    }

                    Span<long> place = entry.Slice(2 + (part * 4), 4);
                    place[0] = AtenTensor.DataPointer(Keep(pair.B.to(ScalarType.BFloat16, _device).contiguous()));
                    place[1] = pair.A.shape[0];
                    place[2] = first;
                    place[3] = BitConverter.SingleToInt32Bits((float)pair.Scaling);
                    first += pair.A.shape[0];
                }
            }
        }

        _table.select(1, slot).copy_(tensor(entries, [_weights.LayerCount * Groups, EntrySize]));
        Forget(slot);
        _loaded[slot] = tensors;
        _ranks[slot] = ranks;

        Tensor Keep(Tensor made)
        {
            // A tensor that was bf16 on the device already is its owner's: the pool has a copy of its own.
            Tensor own = made.clone().DetachFromDisposeScope();
            tensors.Add(own);
            return own;
        }
    }

    /// <summary>Empties a slot.</summary>
    public void Unload(int slot)
    {
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        _table.select(1, slot).zero_();
        Forget(slot);
    }

    /// <summary>Frees everything.</summary>
    public void Dispose()
    {
        foreach (int slot in _loaded.Keys.ToArray())
        {
            Forget(slot);
        }

        foreach (Tensor view in _views)
        {
            view.Dispose();
        }

        _table.Dispose();
    }

    private void Forget(int slot)
    {
        if (_loaded.Remove(slot, out List<Tensor>? tensors))
        {
            tensors.ForEach(t => t.Dispose());
        }

        _ranks.Remove(slot);
    }
}
