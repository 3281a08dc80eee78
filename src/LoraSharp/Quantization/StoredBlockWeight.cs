using LoraSharp.Formats.Gguf;
using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// A matrix [f, k] in the blocks of a GGUF file, whatever their type, laid over the map where the file has its rows in
/// order. Q4_K, Q5_K and Q6_K are multiplied by kernels of their own, the other types row by row. On the CPU only; the
/// checkpoint must outlive it.
/// </summary>
public sealed unsafe class StoredBlockWeight : IQuantizedMatrix
{
    // Decoding a row for each product costs more than for a byte or half a byte: a matrix product pays earlier.
    private const long MostRows = 4;

    private readonly Tensor _blocks;
    private readonly GgufTensorType _type;
    private readonly long _rowBytes;

    /// <summary>Takes a matrix as it is stored.</summary>
    public StoredBlockWeight(GgufStoredMatrix stored)
    {
        ArgumentNullException.ThrowIfNull(stored);
        _type = stored.Type;
        Rows = stored.Rows;
        Columns = stored.Columns;
        _rowBytes = stored.RowBytes;
        long[] shape = [Rows, _rowBytes];
        if (stored.Mapped != null)
        {
            _blocks = AtenTensor.FromPointer((nint)stored.Mapped, shape, ScalarType.Byte).DetachFromDisposeScope();
            return;
        }

        _blocks = empty(shape, ScalarType.Byte).DetachFromDisposeScope();
        stored.CopyTo((byte*)AtenTensor.DataPointer(_blocks));
    }

    /// <summary>Lays itself over blocks in memory, which must outlive it.</summary>
    internal StoredBlockWeight(GgufTensorType type, long rows, long columns, byte* blocks)
    {
        (_type, Rows, Columns, _rowBytes) = (type, rows, columns, type.ByteCount(columns));
        _blocks = AtenTensor.FromPointer((nint)blocks, [rows, _rowBytes], ScalarType.Byte).DetachFromDisposeScope();
    }

    /// <inheritdoc/>
    public long Rows { get; }

    /// <inheritdoc/>
    public long Columns { get; }

    /// <summary>Blocks stand for numbers in single precision.</summary>
    public ScalarType DType => ScalarType.Float32;

    /// <inheritdoc/>
    public Device Device => CPU;

    /// <inheritdoc/>
    public long Bytes => Rows * _rowBytes;

    /// <inheritdoc/>
    public bool CanMultiply(long rows, ScalarType dtype) => rows <= (HasKernel ? FewRows.Most(dtype) : MostRows) && dtype is ScalarType.Float32 or ScalarType.BFloat16;

    /// <inheritdoc/>
    public Tensor Multiply(Tensor x, long[] shape) => Multiply(x, shape, VectorWidths.Best);

    /// <inheritdoc/>
    public void DequantizeInto(Tensor target)
    {
        ArgumentNullException.ThrowIfNull(target);
        if (target.dtype is ScalarType.Float32 or ScalarType.BFloat16)
        {
            RowMatrix.Dequantize(Rowwise, Rows, Columns, target);
            return;
        }

        using var none = no_grad();
        using Tensor values = this.Dequantize(ScalarType.Float32);
        target.copy_(values);
    }

    /// <summary>Rows of the matrix in a floating-point type: an embedding's lookup.</summary>
    /// <param name="rows">Which; each within <see cref="Rows"/>.</param>
    /// <param name="dtype">float32 or bfloat16.</param>
    /// <returns>[rows, k].</returns>
    public Tensor Gather(ReadOnlySpan<long> rows, ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        Tensor values = empty([rows.Length, Columns], ScalarType.Float32);
        float* target = (float*)AtenTensor.DataPointer(values);
        byte* blocks = (byte*)AtenTensor.DataPointer(_blocks);
        for (int i = 0; i < rows.Length; i++)
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((ulong)rows[i], (ulong)Rows, nameof(rows));
            GgufDequantizer.Dequantize(_type, new ReadOnlySpan<byte>(blocks + (rows[i] * _rowBytes), (int)_rowBytes), new Span<float>(target + (i * Columns), (int)Columns));
        }

        return values.to(dtype).MoveToOuterDisposeScope();
    }

    /// <summary><c>NAME.weight</c>: the blocks as bytes [f, bytes a row].</summary>
    public IEnumerable<NamedTensor> Named(string name) => [new(name + ".weight", _blocks)];

    /// <inheritdoc/>
    public void Dispose() => _blocks.Dispose();

    internal Tensor Multiply(Tensor x, long[] shape, VectorWidth width)
    {
        switch (width == VectorWidth.Scalar ? GgufTensorType.F32 : _type)
        {
            case GgufTensorType.Q4_K:
                return Multiply<Q4KBlocks>(x, shape, width);
            case GgufTensorType.Q5_K:
                return Multiply<Q5KBlocks>(x, shape, width);
            case GgufTensorType.Q6_K:
                return Multiply<Q6KBlocks>(x, shape, width);
            default:
                var work = new RowMultiplier<Decoder> { Decoder = Rowwise, K = (int)Columns, F = (int)Rows };
                return FewRows.Multiply(x, Columns, Rows, shape, ref work);
        }
    }

    private Tensor Multiply<TBlocks>(Tensor x, long[] shape, VectorWidth width)
        where TBlocks : unmanaged, ISuperBlocks
    {
        var work = new SuperBlockMultiplier<TBlocks> { Blocks = (byte*)AtenTensor.DataPointer(_blocks), K = (int)Columns, F = (int)Rows, IsWide = width == VectorWidth.Avx512 };
        return FewRows.Multiply(x, Columns, Rows, shape, ref work);
    }

    private bool HasKernel => _type is GgufTensorType.Q4_K or GgufTensorType.Q5_K or GgufTensorType.Q6_K && VectorWidths.Best != VectorWidth.Scalar;

    private Decoder Rowwise => new() { Blocks = (byte*)AtenTensor.DataPointer(_blocks), RowBytes = _rowBytes, Type = _type };

    private struct Decoder : IRowDecoder
    {
        public byte* Blocks;
        public long RowBytes;
        public GgufTensorType Type;

        public readonly void Decode(long row, int first, int count, float* output) => GgufDequantizer.Dequantize(
            Type,
            new ReadOnlySpan<byte>(Blocks + (row * RowBytes) + Type.ByteCount(first), (int)Type.ByteCount(count)),
            new Span<float>(output, count));
    }
}
