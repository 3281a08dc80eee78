using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// A matrix [f, k] in codes of 4, 5 or 8 bits, 32 of which share a scale, in some types a minimum too, in half precision:
/// GGUF's Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1, but codes, scales and minima each in an array of their own, which kernels load
/// without crossing cache lines. 1.0625, 0.5625, 0.625, 0.6875 and 0.75 bytes a weight.
/// </summary>
public sealed unsafe class ScaledBlockWeight : IQuantizedMatrix
{
    /// <summary>Weights a scale.</summary>
    public const int BlockSize = 32;

    // Weights that are in single precision at a time while quantising.
    private const long Piece = 1 << 22;

    private readonly Tensor _codes;
    private readonly Tensor _scales;
    private readonly Tensor? _minima;
    private readonly bool _isOnCpu;

    private ScaledBlockWeight(GgufTensorType type, long rows, long columns, Tensor codes, Tensor scales, Tensor? minima)
    {
        Type = type;
        Rows = rows;
        Columns = columns;
        _codes = codes;
        _scales = scales;
        _minima = minima;
        _isOnCpu = codes.device_type == DeviceType.CPU;
    }

    /// <summary>One of the five.</summary>
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
    public long Bytes => _codes.NumberOfElements + ((_scales.NumberOfElements + (_minima?.NumberOfElements ?? 0)) * sizeof(ushort));

    /// <summary>Whether matrices of this type can be stored like this.</summary>
    public static bool Supports(GgufTensorType type) => type is GgufTensorType.Q8_0 or GgufTensorType.Q4_0 or GgufTensorType.Q4_1 or GgufTensorType.Q5_0 or GgufTensorType.Q5_1;

    /// <summary>Whether rows of this length are whole blocks.</summary>
    public static bool Supports(long columns) => columns % BlockSize == 0;

    /// <summary>Takes blocks as a file has them.</summary>
    /// <param name="type">One of the five.</param>
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
    /// <param name="type">One of the five.</param>
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
            if (!(values.abs().max().item<float>() <= 65504f * (type switch { GgufTensorType.Q8_0 => 127, GgufTensorType.Q4_0 => 8, GgufTensorType.Q5_0 => 16, _ => 1 })))
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
            return new ScaledBlockWeight(type, rows, columns, weight._codes.to(device).DetachFromDisposeScope(), weight._scales.to(device).DetachFromDisposeScope(), weight._minima?.to(device).DetachFromDisposeScope());
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

    /// <summary><c>NAME.weight</c>, <c>NAME.weight.scale</c> and <c>NAME.weight.minimum</c>: no checkpoint format of transformers has these.</summary>
    public IEnumerable<NamedTensor> Named(string name) =>
        [new(name + ".weight", _codes), new(name + ".weight.scale", _scales), .. _minima is null ? (NamedTensor[])[] : [new(name + ".weight.minimum", _minima)]];

    /// <inheritdoc/>
    public void Dispose()
    {
        _codes.Dispose();
        _scales.Dispose();
        _minima?.Dispose();
    }

    internal Tensor Multiply(Tensor x, long[] shape, VectorWidth width) => Type switch
    {
        GgufTensorType.Q8_0 => Multiply<ByteCodes>(x, shape, width),
        GgufTensorType.Q4_0 => Multiply<NibbleCodes>(x, shape, width),
        GgufTensorType.Q4_1 => Multiply<UnsignedNibbleCodes>(x, shape, width),
        GgufTensorType.Q5_0 => Multiply<FiveBitCodes>(x, shape, width),
        _ => Multiply<UnsignedFiveBitCodes>(x, shape, width),
    };

    internal void DequantizeInto(Tensor target, VectorWidth width)
    {
        switch (Type)
        {
            case GgufTensorType.Q8_0:
                DequantizeInto<ByteCodes>(target, width);
                break;
            case GgufTensorType.Q4_0:
                DequantizeInto<NibbleCodes>(target, width);
                break;
            case GgufTensorType.Q4_1:
                DequantizeInto<UnsignedNibbleCodes>(target, width);
                break;
            case GgufTensorType.Q5_0:
                DequantizeInto<FiveBitCodes>(target, width);
                break;
            default:
                DequantizeInto<UnsignedFiveBitCodes>(target, width);
                break;
        }
    }

    /// <summary>In tensor operators that every device has: the way on a GPU, and a reference of the kernels.</summary>
    internal Tensor DequantizeByOperators()
    {
        using var scope = NewDisposeScope();
        Tensor codes = Type == GgufTensorType.Q8_0 ? _codes : Unpacked();
        Tensor values = codes.reshape(-1, BlockSize).to(ScalarType.Float32) * _scales.view(-1, 1).to(ScalarType.Float32);
        values = _minima is null ? values : values + _minima.view(-1, 1).to(ScalarType.Float32);
        return values.view(Rows, Columns).MoveToOuterDisposeScope();
    }

    // Codes of four or five bits as single-precision numbers [blocks, 32].
    private Tensor Unpacked()
    {
        int high = CodeBytes(Type) - (BlockSize / 2);
        Tensor bytes = _codes.view(-1, CodeBytes(Type));
        Tensor nibbles = bytes.narrow(1, high, BlockSize / 2);
        Tensor four = tensor((byte)4, ScalarType.Byte, _codes.device);
        Tensor codes = cat([nibbles.bitwise_and(tensor((byte)15, ScalarType.Byte, _codes.device)), nibbles.bitwise_right_shift(four)], 1);
        if (high > 0)
        {
            Tensor bits = bytes.narrow(1, 0, high).unsqueeze(-1).bitwise_right_shift(arange(8, ScalarType.Byte, _codes.device));
            codes += bits.bitwise_and(tensor((byte)1, ScalarType.Byte, _codes.device)).reshape(-1, BlockSize).bitwise_left_shift(four);
        }

        return codes.to(ScalarType.Float32) - (_minima is not null ? 0 : high > 0 ? 16.0 : 8.0);
    }

    private Tensor Multiply<TCodes>(Tensor x, long[] shape, VectorWidth width)
        where TCodes : unmanaged, IBlockCodes
    {
        var work = new ScaledBlockMultiplier<TCodes> { Codes = CodePointer, Scales = ScalePointer, Minima = MinimumPointer, K = (int)Columns, F = (int)Rows, Width = width };
        return FewRows.Multiply(x, Columns, Rows, shape, ref work);
    }

    private void DequantizeInto<TCodes>(Tensor target, VectorWidth width)
        where TCodes : unmanaged, IBlockCodes =>
        RowMatrix.Dequantize(new ScaledBlockDecoder<TCodes> { Codes = CodePointer, Scales = ScalePointer, Minima = MinimumPointer, RowBlocks = (int)(Columns / BlockSize), Width = width }, Rows, Columns, target);

    private byte* CodePointer => (byte*)AtenTensor.DataPointer(_codes);

    private ushort* ScalePointer => (ushort*)AtenTensor.DataPointer(_scales);

    private ushort* MinimumPointer => _minima is null ? null : (ushort*)AtenTensor.DataPointer(_minima);

    private static bool HasMinimum(GgufTensorType type) => type is GgufTensorType.Q4_1 or GgufTensorType.Q5_1;

    private static int CodeBytes(GgufTensorType type) => type.BlockBytes() - (HasMinimum(type) ? 2 * sizeof(ushort) : sizeof(ushort));

    private static ScaledBlockWeight Allocate(GgufTensorType type, long rows, long columns)
    {
        if (!Supports(type) || !Supports(columns))
        {
            throw new ArgumentException($"Expected rows of whole blocks of {BlockSize} in q8_0, q4_0, q4_1, q5_0 or q5_1, found {columns} columns in {type.Name()}.", nameof(type));
        }

        Tensor codes = empty([rows, columns / BlockSize * CodeBytes(type)], type == GgufTensorType.Q8_0 ? ScalarType.Int8 : ScalarType.Byte);
        return new ScaledBlockWeight(type, rows, columns, codes.DetachFromDisposeScope(), Halves(), HasMinimum(type) ? Halves() : null);

        Tensor Halves() => empty([rows, columns / BlockSize], ScalarType.Float16).DetachFromDisposeScope();
    }

    private void Split(byte* blocks, long first, long count)
    {
        int bytes = CodeBytes(Type);
        var work = new SplitWork { Blocks = blocks, Codes = CodePointer + (first * bytes), Scales = ScalePointer + first, Minima = _minima is null ? null : MinimumPointer + first, Bytes = bytes };
        ParallelRange.For(0, count, 1 << 14, ref work);
    }

    private struct SplitWork : IRangeWork
    {
        public byte* Blocks;
        public byte* Codes;
        public ushort* Scales;
        public ushort* Minima;
        public int Bytes;

        public readonly void Run(long begin, long end)
        {
            int head = Minima is null ? sizeof(ushort) : 2 * sizeof(ushort);
            for (long i = begin; i < end; i++)
            {
                byte* block = Blocks + (i * (Bytes + head));
                Scales[i] = *(ushort*)block;
                if (Minima is not null)
                {
                    Minima[i] = ((ushort*)block)[1];
                }

                Buffer.MemoryCopy(block + head, Codes + (i * Bytes), Bytes, Bytes);
            }
        }
    }
}
