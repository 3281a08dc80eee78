using LoraSharp.Formats;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>Rows of embeddings that are trained (<c>trainable_token_indices</c>), and the heads tied to them.</summary>
internal static class TokenRows
{
    public static void Add(AdapterSet set, LoraAdapter adapter, List<string> warnings, Func<string, Tensor, Tensor, Tensor> rows)
    {
        foreach ((string target, IReadOnlyList<long> wanted) in adapter.Config.TrainableTokens ?? new Dictionary<string, IReadOnlyList<long>>())
        {
            LoraEmbedding[] layers = [.. set.Embeddings.Values.Where(e => target.Length == 0 ? e == set.Embeddings.Values.First() : e.Spec.Name.EndsWith(target, StringComparison.Ordinal))];
            if (layers.Length == 0)
            {
                // A head that is tied to an embedding follows it; any other has no rows to look up.
                if (set.Linears.Values.Any(l => l.Spec.Name.EndsWith(target, StringComparison.Ordinal) && l.Spec.TiedTo is not null))
                {
                    continue;
                }

                throw new LoraSharpException($"trainable_token_indices: '{target}' is no embedding of this model; it has {string.Join(", ", set.Embeddings.Keys)}.");
            }

            foreach (LoraEmbedding layer in layers)
            {
                AddTo(set, adapter, layer, wanted, warnings, rows);
            }
        }
    }

    private static void AddTo(AdapterSet set, LoraAdapter adapter, LoraEmbedding layer, IReadOnlyList<long> wanted, List<string> warnings, Func<string, Tensor, Tensor, Tensor> rows)
    {
        long[] ids = [.. wanted];
        if (ids.Distinct().Count() != ids.Length || ids.Any(i => i < 0 || i >= layer.Spec.Count))
        {
            throw new LoraSharpException($"trainable_token_indices: expected different ids from 0 to {layer.Spec.Count - 1} for {layer.Spec.Name}, found {string.Join(", ", ids)}.");
        }

        AdapterModule module = adapter.Module(layer.Spec.Name, true);
        module.TokenIds = tensor(ids, ScalarType.Int64, set.Device).DetachFromDisposeScope();
        module.TokenPlaces = full([layer.Spec.Count], -1L, ScalarType.Int64, set.Device)
            .index_copy_(0, module.TokenIds, arange(ids.Length, ScalarType.Int64, set.Device)).DetachFromDisposeScope();
        module.TokenRows = rows(layer.Spec.Name, layer.Weight, module.TokenIds).DetachFromDisposeScope();
        foreach (LoraLinear head in set.Linears.Values.Where(l => l.Spec.TiedTo == layer.Spec.Name + ".weight"))
        {
            adapter.Add(new AdapterModule(head.Spec.Name, false)
            {
                BorrowsTokens = true,
                TokenRows = module.TokenRows,
                TokenIds = module.TokenIds,
                TokenPlaces = module.TokenPlaces,
            });
            warnings.Add($"{head.Spec.Name} shares its weight with {layer.Spec.Name}: the trained tokens' rows apply to both.");
        }
    }
}
