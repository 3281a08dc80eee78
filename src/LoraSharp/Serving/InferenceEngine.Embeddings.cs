using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Serving.Shelf;

namespace LoraSharp.Serving;

/// <content>Vectors of texts.</content>
public sealed partial class InferenceEngine
{
    /// <summary>
    /// Vectors of texts: the last hidden states, pooled and of length 1. Texts of similar length share a pass; between two
    /// passes the engine goes on with what it generates.
    /// </summary>
    /// <returns>One for each input, in their order.</returns>
    /// <exception cref="UnknownAdapterException">The adapter is not registered.</exception>
    /// <exception cref="LoraSharpException">An input is empty, too long, or has ids outside the vocabulary; the dimensions are more than there are.</exception>
    public async Task<IReadOnlyList<float[]>> EmbedAsync(EmbeddingRequest request, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        Check(request);
        float[][] vectors = new float[request.Inputs.Count][];
        foreach (int[] batch in EmbeddingPass.Batches(_model, request.Inputs))
        {
            cancellation.ThrowIfCancellationRequested();
            float[][]? rows = await _inbox.Run(() => Embed(request, batch)).ConfigureAwait(false);
            while (rows is null)
            {
                cancellation.ThrowIfCancellationRequested();
                await WarmAsync(request.Adapter!).ConfigureAwait(false);
                rows = await _inbox.Run(() => Embed(request, batch)).ConfigureAwait(false);
            }

            for (int i = 0; i < batch.Length; i++)
            {
                vectors[batch[i]] = rows[i];
            }
        }

        return vectors;
    }

    private void Check(EmbeddingRequest request)
    {
        for (int i = 0; i < request.Inputs.Count; i++)
        {
            IReadOnlyList<int> input = request.Inputs[i];
            if (input.Count == 0 || input.Count > _maxLength)
            {
                throw new LoraSharpException(input.Count == 0 ? $"Input {i} has no tokens." : $"Input {i} has {input.Count} tokens; the model's context is {_maxLength}. Shorten it.");
            }

            if (input.Any(id => id < 0 || id >= _model.Config.VocabularySize))
            {
                throw new LoraSharpException($"Input {i} has a token id outside the vocabulary of {_model.Config.VocabularySize}.");
            }
        }

        if (request.Dimensions is { } wanted && (wanted < 1 || wanted > _model.Config.HiddenSize))
        {
            throw new LoraSharpException($"dimensions is {wanted}. Expected 1 to {_model.Config.HiddenSize}.");
        }
    }

    // Null while the adapter is not on the device.
    private float[][]? Embed(EmbeddingRequest request, int[] batch)
    {
        AdapterVersion? version = request.Adapter is { } name ? _shelf.TakeReady(name) : null;
        if (request.Adapter is not null && version is null)
        {
            return null;
        }

        try
        {
            IReadOnlyList<int>[] texts = [.. batch.Select(i => request.Inputs[i])];
            using IDisposable selected = _adapters.Use(AdapterSelection.ForRows([new RowSegment(texts.Length * texts.Max(t => t.Count), version?.Adapter)]));
            return EmbeddingPass.Run(_model, texts, request.Pooling, request.Dimensions);
        }
        finally
        {
            if (version is not null)
            {
                _shelf.Return(version);
            }
        }
    }
}
