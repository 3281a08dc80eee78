using LoraSharp.Formats;

namespace LoraSharp.Models;

/// <summary>
/// Checkpoints saved from the base model without its head lack the prefix of its names (<c>h.0.attn…</c> where
/// transformers says <c>transformer.h.0.attn…</c>); this puts it back, so that adapters find the names they know.
/// </summary>
internal sealed class PrefixedTensors : ITensorSource
{
    private readonly ITensorSource _inner;
    private readonly Dictionary<string, string> _stored = new(StringComparer.Ordinal);

    private PrefixedTensors(ITensorSource inner, string prefix, string head)
    {
        _inner = inner;
        var tensors = new Dictionary<string, TensorInfo>(StringComparer.Ordinal);
        foreach ((string name, TensorInfo info) in inner.Tensors)
        {
            string full = name.StartsWith(head + ".", StringComparison.Ordinal) ? name : prefix + name;
            _stored.Add(full, name);
            tensors.Add(full, info);
        }

        Tensors = tensors;
    }

    /// <inheritdoc/>
    public string Location => _inner.Location;

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, TensorInfo> Tensors { get; }

    /// <summary>The source itself, or one with the prefix where no tensor has it and the embedding is there without.</summary>
    public static ITensorSource Over(ITensorSource source, DecoderNames names)
    {
        string embedding = names.Embedding + ".weight";
        return !source.Tensors.ContainsKey(embedding) && source.Tensors.ContainsKey(embedding[names.Prefix.Length..])
            ? new PrefixedTensors(source, names.Prefix, names.Head)
            : source;
    }

    /// <inheritdoc/>
    public TensorData Read(string name) => _inner.Read(_stored.GetValueOrDefault(name, name));

    /// <inheritdoc/>
    public ITensorSource Underlying => _inner;

    /// <inheritdoc/>
    public string UnderlyingName(string name) => _stored.GetValueOrDefault(name, name);

    /// <summary>Does nothing: the inner source belongs to its model source.</summary>
    public void Dispose()
    {
    }
}
