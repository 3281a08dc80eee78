using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// A matrix [f, k] in signed 8- or 4-bit codes, 32 of which share a scale in half precision: GGUF's Q8_0 and Q4_0, but
/// codes and scales each in an array of their own, which kernels load without crossing cache lines. 1.0625 and 0.5625
/// bytes a weight.
/// </summary>
public sealed unsafe class ScaledBlockWeight : IQuantizedMatrix
{
    /// <summary>Weights a scale.</summary>
    public const int BlockSize = 32;

    // Weights that are in single precision at a time while quantising.
    private const long Piece = 1 << 22;

    private readonly Tensor _codes;
    private readonly Tensor _scales;
    private readonly bool _isOnCpu;

    private ScaledBlockWeight(GgufTensorType type, long rows, long columns, Tensor codes, Tensor scales)
    {
        Type = type;
        Rows = rows;
        Columns = columns;
        _codes = codes;
        _scales = scales;
        _isOnCpu = codes.device_type == DeviceType.CPU;
    }

    /// <summary>Q8_0 or Q4_0.</summary>
    public GgufTensorType Type { get; }

    /// <inheritdoc/>
    public long Rows { get; }

    /// <inheritdoc/>
    public long Columns { get; }

    /// <summary>A code times a scale is exact in single precision, which is therefore what it is dequantised to.</summary>
    public ScalarType DType => ScalarType.Float32;

    /// <inheritdoc/>
    public Device Device => _codes.device;

    /// <inheritdoc/>
    public long Bytes => _codes.NumberOfElements + (_scales.NumberOfElements * sizeof(ushort));

    /// <summary>Whether matrices of this type can be stored like this.</summary>
    public static bool Supports(GgufTensorType type) => type is GgufTensorType.Q8_0 or GgufTensorType.Q4_0;

    /// <summary>Whether rows of this length are whole blocks.</summary>
    public static bool Supports(long columns) => columns % BlockSize == 0;

    /// <summary>Takes blocks as a file has them.</summary>
    /// <param name="type">Q8_0 or Q4_0.</param>
    /// <param name="rows">f.</param>
    /// <param name="columns">k, a multiple of 32.</param>
    /// <param name="blocks">Address of the first one; not kept.</param>
    public static ScaledBlockWeight FromBlocks(GgufTensorType type, long rows, long columns, byte* blocks)
    {
        ScaledBlockWeight weight = Allocate(type, rows, columns);
        weight.Split(blocks, 0, rows * columns / BlockSize);
        return weight;
    }

    /// <summary>Quantises a matrix as GGUF's writers do.</summary>
    /// <param name="matrix">[f, k], k a multiple of 32, on the CPU.</param>
    /// <param name="name">For messages.</param>
    /// <param name="type">Q8_0 or Q4_0.</param>
    /// <param name="device">Where the result goes.</param>
    /// <exception cref="LoraSharpException">A weight is NaN, infinite or beyond what a half-precision scale can hold.</exception>
    public static ScaledBlockWeight Quantize(Tensor matrix, string name, GgufTensorType type, Device device)
    {
        ArgumentNullException.ThrowIfNull(matrix);
        using var none = no_grad();
        using var scope = NewDisposeScope();
        (long rows, long columns) = (matrix.shape[0], matrix.shape[1]);
        ScaledBlockWeight weight = Allocate(type, rows, columns);
        long step = Math.Max(1, Piece / columns);
        byte[] blocks = new byte[type.ByteCount(Math.Min(step, rows) * columns)];
        for (long row = 0; row < rows; row += step)
        {
            using var piece = NewDisposeScope();
            long count = Math.Min(step, rows - row) * columns;
            Tensor values = matrix.narrow(0, row, count / columns).to(ScalarType.Float32).contiguous();
            if (!(values.abs().max().item<float>() <= 65504f * (type == GgufTensorType.Q8_0 ? 127 : 8)))
            {
                weight.Dispose();
                throw new LoraSharpException($"{name}: rows {row} to {row + (count / columns) - 1} hold NaN, infinity or values too large for a half-precision scale, which cannot be quantised to {type.Name()}. The checkpoint is damaged, or of a type too narrow for it.");
            }

            Span<byte> target = blocks.AsSpan(0, checked((int)type.ByteCount(count)));
            GgufQuantizer.Quantize(type, new ReadOnlySpan<float>((void*)AtenTensor.DataPointer(values), (int)count), target);
            fixed (byte* first = target)
            {
                weight.Split(first, row * columns / BlockSize, count / BlockSize);
            }
        }

        if (device.type == DeviceType.CPU)
        {
            return weight;
        }

        using (weight)
        {
            return new ScaledBlockWeight(type, rows, columns, weight._codes.to(device).DetachFromDisposeScope(), weight._scales.to(device).DetachFromDisposeScope());
        }
    }

    /// <inheritdoc/>
    public bool CanMultiply(long rows, ScalarType dtype) => rows <= FewRows.Most(dtype) && _isOnCpu;

    /// <inheritdoc/>
    public Tensor Multiply(Tensor x, long[] shape) => Multiply(x, shape, VectorWidths.Best);

    /// <inheritdoc/>
    public void DequantizeInto(Tensor target)
    {
        ArgumentNullException.ThrowIfNull(target);
        if (_isOnCpu && target.dtype is ScalarType.Float32 or ScalarType.BFloat16)
        {
            DequantizeInto(target, VectorWidths.Best);
            return;
        }

        using var none = no_grad();
        using Tensor values = DequantizeByOperators();
        target.copy_(values);
    }

    /// <summary><c>NAME.weight</c> and <c>NAME.weight.scale</c>: no checkpoint format of transformers has these.</summary>
    public IEnumerable<NamedTensor> Named(string name) => [new(name + ".weight", _codes), new(name + ".weight.scale", _scales)];

    /// <inheritdoc/>
    public void Dispose()
    {
        _codes.Dispose();
        _scales.Dispose();
    }

    internal Tensor Multiply(Tensor x, long[] shape, VectorWidth width)
    {
        if (Type == GgufTensorType.Q8_0)
        {
            var bytes = new ScaledBlockMultiplier<ByteCodes> { Codes = CodePointer, Scales = ScalePointer, K = (int)Columns, F = (int)Rows, Width = width };
            return FewRows.Multiply(x, Columns, Rows, shape, ref bytes);
        }

        var nibbles = new ScaledBlockMultiplier<NibbleCodes> { Codes = CodePointer, Scales = ScalePointer, K = (int)Columns, F = (int)Rows, Width = width };
        return FewRows.Multiply(x, Columns, Rows, shape, ref nibbles);
    }

    internal void DequantizeInto(Tensor target, VectorWidth width)
    {
        int rowBlocks = (int)(Columns / BlockSize);
        if (Type == GgufTensorType.Q8_0)
        {
            RowMatrix.Dequantize(new ScaledBlockDecoder<ByteCodes> { Codes = CodePointer, Scales = ScalePointer, RowBlocks = rowBlocks, Width = width }, Rows, Columns, target);
        }
        else
        {
            RowMatrix.Dequantize(new ScaledBlockDecoder<NibbleCodes> { Codes = CodePointer, Scales = ScalePointer, RowBlocks = rowBlocks, Width = width }, Rows, Columns, target);
        }
    }

    /// <summary>In tensor operators that every device has: the way on a GPU, and a reference of the kernels.</summary>
    internal Tensor DequantizeByOperators()
    {
        using var scope = NewDisposeScope();
        Tensor codes = _codes;
        if (Type == GgufTensorType.Q4_0)
        {
            Tensor bytes = _codes.view(-1, BlockSize / 2);
            Tensor low = bytes.bitwise_and(tensor((byte)15, ScalarType.Byte, _codes.device));
            Tensor high = bytes.bitwise_right_shift(tensor((byte)4, ScalarType.Byte, _codes.device));
            codes = cat([low, high], 1).to(ScalarType.Float32) - 8.0;
        }

        Tensor values = codes.reshape(-1, BlockSize).to(ScalarType.Float32) * _scales.view(-1, 1).to(ScalarType.Float32);
        return values.view(Rows, Columns).MoveToOuterDisposeScope();
    }

    private byte* CodePointer => (byte*)AtenTensor.DataPointer(_codes);

    private ushort* ScalePointer => (ushort*)AtenTensor.DataPointer(_scales);

    private static ScaledBlockWeight Allocate(GgufTensorType type, long rows, long columns)
    {
        if (!Supports(type) || !Supports(columns))
        {
            throw new ArgumentException($"Expected rows of whole blocks of {BlockSize} in q8_0 or q4_0, found {columns} columns in {type.Name()}.", nameof(type));
        }

        Tensor codes = type == GgufTensorType.Q8_0 ? empty([rows, columns], ScalarType.Int8) : empty([rows, columns / 2], ScalarType.Byte);
        return new ScaledBlockWeight(type, rows, columns, codes.DetachFromDisposeScope(), empty([rows, columns / BlockSize], ScalarType.Float16).DetachFromDisposeScope());
    }

    private void Split(byte* blocks, long first, long count)
    {
        int bytes = Type.BlockBytes() - sizeof(ushort);
        var work = new SplitWork { Blocks = blocks, Codes = CodePointer + (first * bytes), Scales = ScalePointer + first, Bytes = bytes };
        ParallelRange.For(0, count, 1 << 14, ref work);
    }

    private struct SplitWork : IRangeWork
    {
        public byte* Blocks;
        public byte* Codes;
        public ushort* Scales;
        public int Bytes;

        public readonly void Run(long begin, long end)
        {
            for (long i = begin; i < end; i++)
            {
                byte* block = Blocks + (i * (Bytes + sizeof(ushort)));
                Scales[i] = *(ushort*)block;
                Buffer.MemoryCopy(block + sizeof(ushort), Codes + (i * Bytes), Bytes, Bytes);
            }
        }
    }
}
