using LoraSharp.Inference;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Serving;

/// <summary>Vectors of some texts by one pass of the model, padded on the right.</summary>
internal static class EmbeddingPass
{
    // Of a batch with its padding: a pass keeps those who wait for tokens waiting.
    private const int MostTokens = 2048;

    /// <summary>Indices of texts that go through one pass: of similar length, and not too many tokens together.</summary>
    public static IEnumerable<int[]> Batches(CausalLanguageModel model, IReadOnlyList<IReadOnlyList<int>> inputs)
    {
        var batch = new List<int>();
        foreach (int index in Enumerable.Range(0, inputs.Count).OrderBy(i => inputs[i].Count))
        {
            // Where frequencies depend on the length a text must not be computed at another's.
            if (batch.Count > 0 && ((batch.Count + 1) * inputs[index].Count > MostTokens || model.InvalidatesCache(inputs[batch[0]].Count, inputs[index].Count)))
            {
                yield return [.. batch];
                batch.Clear();
            }

            batch.Add(index);
        }

        if (batch.Count > 0)
        {
            yield return [.. batch];
        }
    }

    /// <summary>Runs the pass; the adapters are selected already.</summary>
    /// <returns>A vector of length 1 for each text.</returns>
    public static unsafe float[][] Run(CausalLanguageModel model, IReadOnlyList<IReadOnlyList<int>> texts, EmbeddingPooling pooling, int? dimensions)
    {
        using var scope = NewDisposeScope();
        int longest = texts.Max(t => t.Count);
        long[] ids = new long[texts.Count * longest], real = new long[ids.Length];
        for (int row = 0; row < texts.Count; row++)
        {
            for (int i = 0; i < texts[row].Count; i++)
            {
                ids[(row * longest) + i] = texts[row][i];
                real[(row * longest) + i] = 1;
            }
        }

        Tensor mask = tensor(real, [texts.Count, longest], device: model.Device);
        using var attention = new PaddedAttention(mask);
        Tensor hidden = model.Hidden(tensor(ids, [texts.Count, longest], device: model.Device), model.Positions(longest, mask), attention).to(ScalarType.Float32);
        Tensor pooled = pooling == EmbeddingPooling.Mean
            ? (hidden * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim: true)
            : hidden.gather(1, (mask.sum(1, keepdim: true) - 1).unsqueeze(2).expand(-1, -1, hidden.shape[2])).squeeze(1);
        pooled = dimensions is { } d ? pooled.narrow(1, 0, d) : pooled;
        Tensor host = nn.functional.normalize(pooled, p: 2, dim: 1).cpu().contiguous();
        int width = checked((int)host.shape[1]);
        float* values = (float*)AtenTensor.DataPointer(host);
        return [.. Enumerable.Range(0, texts.Count).Select(row => new ReadOnlySpan<float>(values + ((long)row * width), width).ToArray())];
    }
}
