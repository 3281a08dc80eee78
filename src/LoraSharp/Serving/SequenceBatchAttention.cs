using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Serving;

/// <summary>One new token of each of several sequences: every row attends to its own cache, whatever their lengths.</summary>
/// <param name="caches">A cache a row, in the rows' order.</param>
internal sealed class SequenceBatchAttention(IReadOnlyList<KeyValueCache> caches) : AttentionContext
{
    /// <inheritdoc/>
    public override Tensor Attend(int layer, Tensor query, Tensor key, Tensor value, AttentionSpec spec)
    {
        using var scope = NewDisposeScope();
        var rows = new Tensor[caches.Count];
        for (int i = 0; i < rows.Length; i++)
        {
            rows[i] = caches[i].Attend(layer, query.narrow(0, i, 1), key.narrow(0, i, 1), value.narrow(0, i, 1), spec);
        }

        return (rows.Length == 1 ? rows[0] : cat(rows, 0)).MoveToOuterDisposeScope();
    }
}
