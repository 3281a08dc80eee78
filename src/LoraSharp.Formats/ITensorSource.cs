namespace LoraSharp.Formats;

/// <summary>
/// Named tensors on disk: a safetensors file, a sharded folder, a GGUF file under Hugging Face names. Reading one
/// tensor never reads the others, so that a checkpoint larger than memory can be streamed.
/// </summary>
public interface ITensorSource : IDisposable
{
    /// <summary>Where it comes from, for messages.</summary>
    string Location { get; }

    /// <summary>Every tensor by name.</summary>
    IReadOnlyDictionary<string, TensorInfo> Tensors { get; }

    /// <summary>The data of one tensor, row-major and little-endian.</summary>
    /// <exception cref="LoraSharpException">There is no tensor of this name.</exception>
    TensorData Read(string name);

    /// <summary>What the file says of itself beside its tensors; empty where it has no place for that.</summary>
    IReadOnlyDictionary<string, string> Metadata => System.Collections.Immutable.ImmutableDictionary<string, string>.Empty;

    /// <summary>The source that this one is a view of, for those who know how to take tensors in the form they are stored in; null for none.</summary>
    ITensorSource? Underlying => null;

    /// <summary>What <see cref="Underlying"/> calls a tensor of this.</summary>
    string UnderlyingName(string name) => name;
}

/// <summary>
/// Bytes of one tensor: a view into a memory map (valid as long as its source) or a buffer of its own.
/// </summary>
public readonly unsafe struct TensorData
{
    private readonly byte* _pointer;
    private readonly byte[]? _owned;

    /// <summary>A view of mapped memory; the source keeps it alive.</summary>
    public TensorData(TensorInfo info, byte* pointer)
    {
        Info = info;
        _pointer = pointer;
        _owned = null;
    }

    /// <summary>A buffer of its own, e.g. what was dequantised.</summary>
    public TensorData(TensorInfo info, byte[] owned)
    {
        Info = info;
        _pointer = null;
        _owned = owned;
    }

    /// <summary>Name, type and shape.</summary>
    public TensorInfo Info { get; }

    /// <summary>True when the bytes belong to a memory map, so that a tensor may be laid over them without a copy.</summary>
    public bool IsMapped => _owned is null;

    /// <summary>Address of mapped bytes; null for an owned buffer.</summary>
    public byte* MappedPointer => _pointer;

    /// <summary>The owned buffer; null for mapped bytes.</summary>
    public byte[]? Owned => _owned;

    /// <summary>Bytes <paramref name="offset"/> to <paramref name="offset"/> + <paramref name="length"/> of the data.</summary>
    public ReadOnlySpan<byte> Slice(long offset, int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset + length, Info.ByteCount);
        return _owned is null ? new ReadOnlySpan<byte>(_pointer + offset, length) : _owned.AsSpan(checked((int)offset), length);
    }
}
