using LoraSharp.Serving;
using Microsoft.Extensions.AI;

namespace LoraSharp.Extensions.AI;

/// <summary>
/// Vectors of texts by a model in this process: its last hidden states, pooled and of length 1.
/// <see cref="EmbeddingGenerationOptions.ModelId"/> names the adapter.
/// </summary>
/// <param name="model">Stays the caller's.</param>
public sealed class EngineEmbeddingGenerator(LocalModel model) : IEmbeddingGenerator<string, Embedding<float>>
{
    private readonly EmbeddingGeneratorMetadata _metadata = new("lorasharp", defaultModelId: model.Name);

    /// <inheritdoc/>
    /// <exception cref="LoraSharp.Formats.LoraSharpException">A text is empty or longer than the context, or the dimensions are more than there are.</exception>
    public async Task<GeneratedEmbeddings<Embedding<float>>> GenerateAsync(IEnumerable<string> values, EmbeddingGenerationOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(values);
        int[][] inputs = [.. values.Select(v => model.Tokenizer.Encode(v))];
        var request = new EmbeddingRequest { Inputs = inputs, Adapter = model.AdapterOf(options?.ModelId), Pooling = model.Pooling, Dimensions = options?.Dimensions };
        IReadOnlyList<float[]> vectors = await model.Engine.EmbedAsync(request, cancellationToken).ConfigureAwait(false);
        int tokens = inputs.Sum(i => i.Length);
        DateTimeOffset created = DateTimeOffset.UtcNow;
        return new GeneratedEmbeddings<Embedding<float>>(vectors.Select(v => new Embedding<float>(v) { ModelId = options?.ModelId ?? model.Name, CreatedAt = created }))
        {
            Usage = new UsageDetails { InputTokenCount = tokens, TotalTokenCount = tokens },
        };
    }

    /// <inheritdoc/>
    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is not null ? null
            : serviceType == typeof(EmbeddingGeneratorMetadata) ? _metadata
            : serviceType == typeof(LocalModel) ? model
            : serviceType.IsInstanceOfType(this) ? this : null;
    }

    /// <summary>Does nothing: the model is not its own.</summary>
    public void Dispose()
    {
    }
}
