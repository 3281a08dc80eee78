using LoraSharp.Formats.Gguf.Mapping;

namespace LoraSharp.Formats.Gguf;

/// <summary>
/// A matrix of a GGUF file as it is stored: rows of whole blocks, in the order that transformers has them. For those who
/// compute with the blocks instead of with what they stand for. Valid as long as its checkpoint.
/// </summary>
public sealed unsafe class GgufStoredMatrix
{
    private readonly GgufTensorPlan _plan;

    internal GgufStoredMatrix(GgufTensorPlan plan) => _plan = plan;

    /// <summary>How a block is stored.</summary>
    public GgufTensorType Type => _plan.Sources[0].Info.Type;

    /// <summary>f.</summary>
    public long Rows => _plan.Info.Shape[0];

    /// <summary>k, a multiple of the type's block size.</summary>
    public long Columns => _plan.Info.Shape[1];

    /// <summary>Bytes of a row.</summary>
    public long RowBytes => Type.ByteCount(Columns);

    /// <summary>Address of the rows in the map, or null where the file has them in another order.</summary>
    public byte* Mapped => _plan.Rows is null ? _plan.Sources[0].Pointer + (_plan.FirstRow * RowBytes) : null;

    /// <summary>Writes all rows, <see cref="Rows"/> × <see cref="RowBytes"/> bytes.</summary>
    public void CopyTo(byte* target) => _plan.CopyStored(target);
}
