using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// Linear layers and embeddings of a GGUF file in the blocks they are stored in, so that a 4-bit file takes 4 bits in
/// memory and is decoded at the speed of its bytes. Tensors of plain types, routers, GPT-2's transposed matrices and
/// stacked experts come from the inner factory, and so does everything on a GPU or from another kind of source. Dispose
/// it after the model; the checkpoint must outlive both.
/// </summary>
/// <param name="inner">Makes everything else.</param>
public sealed unsafe class GgufLinearFactory(ILinearFactory inner) : ILinearFactory, IDisposable
{
    private readonly DequantizationBuffer _buffer = new();

    /// <inheritdoc/>
    public LinearLayer CreateLinear(LinearSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(weights);
        string name = spec.TiedTo ?? spec.Name + ".weight";
        if (spec.KeepPrecision || FindStored(weights, name) is not { } stored || stored.Rows != spec.OutFeatures || stored.Columns != spec.InFeatures)
        {
            return inner.CreateLinear(spec, weights);
        }

        weights.Ignore(name);
        return new QuantizedLinear(spec, Take(stored), spec.HasBias ? weights.Read(spec.Name + ".bias", [spec.OutFeatures]).DetachFromDisposeScope() : null, _buffer);
    }

    /// <inheritdoc/>
    public EmbeddingLayer CreateEmbedding(EmbeddingSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(weights);
        string name = spec.Name + ".weight";
        if (FindStored(weights, name) is not { } stored || stored.Rows != spec.Count || stored.Columns != spec.Size)
        {
            return inner.CreateEmbedding(spec, weights);
        }

        weights.Ignore(name);
        return new StoredEmbedding(spec, new StoredBlockWeight(stored), weights.DType);
    }

    /// <inheritdoc/>
    public Tensor CreateParameter(string name, IReadOnlyList<long> shape, WeightReader weights) => inner.CreateParameter(name, shape, weights);

    /// <summary>Frees the shared buffer.</summary>
    public void Dispose() => _buffer.Dispose();

    private static GgufStoredMatrix? FindStored(WeightReader weights, string name)
    {
        if (weights.Device.type != DeviceType.CPU)
        {
            return null;
        }

        ITensorSource? source = weights.Source;
        while (source is { } view && view is not GgufCheckpoint)
        {
            (source, name) = (view.Underlying, view.UnderlyingName(name));
        }

        return (source as GgufCheckpoint)?.FindStored(name);
    }

    private static IQuantizedMatrix Take(GgufStoredMatrix stored)
    {
        if (!ScaledBlockWeight.Supports(stored.Type))
        {
            return new StoredBlockWeight(stored);
        }

        if (stored.Mapped == null)
        {
            using var ordered = new StoredBlockWeight(stored);
            return ScaledBlockWeight.FromBlocks(stored.Type, stored.Rows, stored.Columns, (byte*)AtenTensor.DataPointer(ordered.Named(string.Empty).Single().Value));
        }

        ScaledBlockWeight weight = ScaledBlockWeight.FromBlocks(stored.Type, stored.Rows, stored.Columns, stored.Mapped);
        MappedPages.Release((nint)stored.Mapped, stored.Rows * stored.RowBytes);
        return weight;
    }
}
