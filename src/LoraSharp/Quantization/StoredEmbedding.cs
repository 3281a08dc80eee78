using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>Rows of a table [v, d] that stays in the blocks of a GGUF file; only what is looked up is decoded.</summary>
public sealed unsafe class StoredEmbedding : EmbeddingLayer
{
    private readonly StoredBlockWeight _table;
    private readonly ScalarType _dtype;
    private Tensor? _dense;

    /// <summary>Takes ownership of the table.</summary>
    /// <param name="spec">Name and sizes.</param>
    /// <param name="table">[v, d].</param>
    /// <param name="dtype">Compute type: float32 or bfloat16.</param>
    public StoredEmbedding(EmbeddingSpec spec, StoredBlockWeight table, ScalarType dtype)
        : base(spec)
    {
        _table = table;
        _dtype = dtype;
    }

    /// <summary>The table decoded in full, kept from the first use on: for adapters on embeddings.</summary>
    public override Tensor Weight => _dense ??= _table.Dequantize(_dtype).DetachFromDisposeScope();

    /// <summary>The blocks.</summary>
    public override IEnumerable<NamedTensor> Parameters => _table.Named(Spec.Name);

    /// <inheritdoc/>
    public override Tensor Forward(Tensor ids)
    {
        ArgumentNullException.ThrowIfNull(ids);
        using var scope = NewDisposeScope();
        Tensor flat = ids.to(ScalarType.Int64).contiguous();
        Tensor rows = _table.Gather(new ReadOnlySpan<long>((void*)AtenTensor.DataPointer(flat), checked((int)flat.NumberOfElements)), _dtype);
        return rows.view([.. ids.shape, Spec.Size]).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        _table.Dispose();
        _dense?.Dispose();
    }
}
