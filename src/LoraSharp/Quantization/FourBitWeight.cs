using LoraSharp.Formats;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Cuda;
using LoraSharp.Tensors.Interop;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// A matrix [f, k] in 4 bits: packed codes, a scale a block of the flattened matrix, and, doubly quantised, the scales'
/// own scales. On a CPU the kernels of this room work on it in place; elsewhere the same in tensor operators does.
/// </summary>
public sealed unsafe class FourBitWeight : IQuantizedMatrix
{
    private readonly Tensor _packed;
    private readonly Tensor _absmax;
    private readonly Tensor? _nested;
    private readonly Tensor? _map;
    private readonly float _offset;
    private Tensor? _book;

    /// <summary>Takes ownership of the tensors, which lie on one device.</summary>
    /// <param name="codebook">NF4 or FP4.</param>
    /// <param name="blockSize">Weights a scale.</param>
    /// <param name="rows">f.</param>
    /// <param name="columns">k.</param>
    /// <param name="dtype">The type before quantisation: what is dequantised has this type's precision.</param>
    /// <param name="packed">uint8 [(f·k + 1) / 2, 1].</param>
    /// <param name="absmax">float32 [blocks], or uint8 [blocks] when doubly quantised.</param>
    /// <param name="nested">float32 [blocks / 256], or null.</param>
    /// <param name="offset">The mean of the scales when doubly quantised.</param>
    public FourBitWeight(FourBitCodebook codebook, int blockSize, long rows, long columns, ScalarType dtype, Tensor packed, Tensor absmax, Tensor? nested, float offset)
    {
        ArgumentNullException.ThrowIfNull(codebook);
        ArgumentNullException.ThrowIfNull(packed);
        Codebook = codebook;
        BlockSize = blockSize;
        Rows = rows;
        Columns = columns;
        DType = dtype;
        _packed = packed;
        _absmax = absmax;
        _nested = nested;
        _offset = offset;
        if (nested is not null)
        {
            _map = tensor(DynamicMap.Signed.Table.ToArray(), ScalarType.Float32, packed.device).DetachFromDisposeScope();
        }
    }

    /// <summary>NF4 or FP4.</summary>
    public FourBitCodebook Codebook { get; }

    /// <summary>Weights a scale.</summary>
    public int BlockSize { get; }

    /// <summary>f.</summary>
    public long Rows { get; }

    /// <summary>k.</summary>
    public long Columns { get; }

    /// <summary>The type before quantisation.</summary>
    public ScalarType DType { get; }

    /// <summary>The packed codes; owned by this.</summary>
    public Tensor Packed => _packed;

    /// <summary>The scales, or their codes; owned by this.</summary>
    public Tensor Absmax => _absmax;

    /// <summary>The scales' scales, or null; owned by this.</summary>
    public Tensor? NestedAbsmax => _nested;

    /// <summary>The mean of the scales when doubly quantised.</summary>
    public float NestedOffset => _offset;

    /// <summary>Whether the scales are quantised too.</summary>
    public bool IsDoublyQuantized => _nested is not null;

    /// <summary>Bytes of codes and scales: what the matrix costs.</summary>
    public long Bytes => new[] { _packed, _absmax, _nested }.OfType<Tensor>().Sum(t => t.NumberOfElements * t.ElementSize);

    /// <inheritdoc/>
    public Device Device => _packed.device;

    /// <inheritdoc/>
    public bool CanMultiply(long rows, ScalarType dtype) => rows <= FewRows.Most(dtype)
        && _packed.device_type == DeviceType.CPU && FourBitMultiplier.Supports(Columns, BlockSize);

    /// <summary>Quantises a matrix in its own precision.</summary>
    /// <param name="matrix">[f, k], float32, bfloat16 or float16; quantised on the CPU, wherever it lies.</param>
    /// <param name="name">For messages.</param>
    /// <param name="options">Type, block size, double quantisation.</param>
    /// <param name="device">Where the result goes.</param>
    public static FourBitWeight Quantize(Tensor matrix, string name, QuantizationOptions options, Device device)
    {
        ArgumentNullException.ThrowIfNull(matrix);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(device);
        options.Validate();
        using var scope = NewDisposeScope();
        long count = matrix.NumberOfElements;
        FourBitCodebook codebook = FourBitCodebook.Of(options.Type);
        Tensor flat = matrix.cpu().contiguous();
        Tensor packed = empty([FourBitReference.PackedBytes(count), 1], ScalarType.Byte);
        Tensor absmax = empty([FourBitReference.Blocks(count, options.BlockSize)], ScalarType.Float32);
        FourBitQuantizer.Quantize((void*)AtenTensor.DataPointer(flat), flat.dtype.ToElementType(), count, options.BlockSize, codebook, (byte*)AtenTensor.DataPointer(packed), (float*)AtenTensor.DataPointer(absmax));
        var scales = new ReadOnlySpan<float>((void*)AtenTensor.DataPointer(absmax), checked((int)absmax.NumberOfElements));
        int faulty = scales.IndexOfAnyExceptInRange(0f, float.MaxValue);
        if (faulty >= 0)
        {
            throw new LoraSharpException($"{name}: weights {(long)faulty * options.BlockSize} to {((faulty + 1L) * options.BlockSize) - 1} hold NaN or infinity, which cannot be quantised. The checkpoint is damaged, or of a type too narrow for it.");
        }

        Tensor? nested = null;
        float offset = 0;
        if (options.DoubleQuantization)
        {
            Tensor codes = empty([scales.Length], ScalarType.Byte);
            nested = empty([DoubleQuantization.Blocks(scales.Length)], ScalarType.Float32);
            offset = DoubleQuantization.Quantize(scales, new Span<byte>((void*)AtenTensor.DataPointer(codes), scales.Length), new Span<float>((void*)AtenTensor.DataPointer(nested), (int)nested.NumberOfElements));
            absmax = codes;
        }

        return new FourBitWeight(codebook, options.BlockSize, matrix.shape[0], matrix.shape[1], matrix.dtype, Kept(packed), Kept(absmax), nested is null ? null : Kept(nested), offset);

        Tensor Kept(Tensor tensor) => tensor.to(device).DetachFromDisposeScope();
    }

    /// <summary>Writes the matrix into a tensor [f, k] on the same device: contiguous, or on a GPU with rows of any stride.</summary>
    public void DequantizeInto(Tensor target)
    {
        ArgumentNullException.ThrowIfNull(target);
        if (_packed.device_type == DeviceType.CUDA && LaunchDequantize(target))
        {
            return;
        }

        if (_packed.device_type == DeviceType.CPU && target.dtype is ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16)
        {
            FourBitDequantizer.Dequantize((byte*)AtenTensor.DataPointer(_packed), Scales(), Rows * Columns, BlockSize, Codebook, (void*)AtenTensor.DataPointer(target), target.dtype.ToElementType(), VectorWidths.Best, DType.ToElementType());
            return;
        }

        using var none = no_grad();
        using Tensor values = DequantizeByOperators();
        target.copy_(values);
    }

    // One kernel (four_bit.cu), bit for bit the CPU's values; false where it does not fit.
    private bool LaunchDequantize(Tensor target)
    {
        bool half = DType == ScalarType.Float16;
        if (Columns % 8 != 0 || target.stride(1) != 1 || target.stride(0) % 8 != 0 || half || !(target.dtype == ScalarType.BFloat16 || (target.dtype == ScalarType.Float32 && DType == ScalarType.Float32)) || !CudaModule.IsAvailable)
        {
            return false;
        }

        CudaModule kernels = CudaModule.Shared("four_bit", _packed.device_index);
        KernelArgument none = (nint)0;
        bool nested = _nested is not null;
        kernels.Launch(
            target.dtype == ScalarType.BFloat16 ? "dequantize_bf16" : "dequantize_f32",
            ((Columns + 2047) / 2048, Rows, 1),
            256,
            0,
            _packed,
            nested ? none : _absmax,
            nested ? _absmax : none,
            nested ? _map! : none,
            nested ? _nested! : none,
            _offset,
            DoubleQuantization.BlockSize,
            _book ??= tensor(Codebook.Values.ToArray(), ScalarType.Float32, _packed.device).DetachFromDisposeScope(),
            target,
            (int)Columns,
            target.stride(0),
            BlockSize);
        return true;
    }

    /// <summary>The same in tensor operators that every device has: the reference of the kernels, and the way where they do not fit.</summary>
    internal Tensor DequantizeByOperators()
    {
        using var scope = NewDisposeScope();
        long count = Rows * Columns;
        Tensor high = _packed.bitwise_right_shift(tensor((byte)4, ScalarType.Byte, _packed.device));
        Tensor low = _packed.bitwise_and(tensor((byte)15, ScalarType.Byte, _packed.device));
        Tensor codes = cat([high, low], 1).reshape(-1).narrow(0, 0, count).to(ScalarType.Int32);
        Tensor table = tensor(Codebook.Values.ToArray(), ScalarType.Float32, _packed.device);
        Tensor values = table.index_select(0, codes);
        Tensor scales = _absmax;
        if (_nested is not null)
        {
            scales = _map!.index_select(0, _absmax.to(ScalarType.Int32)) * _nested.repeat_interleave(DoubleQuantization.BlockSize).narrow(0, 0, _absmax.NumberOfElements);
            scales = scales + (double)_offset;
        }

        long padding = (scales.NumberOfElements * BlockSize) - count;
        if (padding > 0)
        {
            values = nn.functional.pad(values, [0, padding]);
        }

        values = (values.view(-1, BlockSize) * scales.unsqueeze(1)).reshape(-1).narrow(0, 0, count);
        return values.to(DType).view(Rows, Columns).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public Tensor Multiply(Tensor x, long[] shape)
    {
        ArgumentNullException.ThrowIfNull(x);
        long rows = x.NumberOfElements / Columns;
        Tensor y = empty(shape, x.dtype);
        FourBitMultiplier.Multiply((byte*)AtenTensor.DataPointer(_packed), Scales(), BlockSize, Codebook, (void*)AtenTensor.DataPointer(x), (void*)AtenTensor.DataPointer(y), x.dtype.ToElementType(), (int)rows, (int)Columns, (int)Rows, VectorWidths.Best, DType.ToElementType());
        return y;
    }

    /// <summary>The tensors under the names that bitsandbytes gives them, after <c>NAME.</c>, without its constant tables.</summary>
    public IEnumerable<NamedTensor> Named(string name)
    {
        yield return new(name + ".weight", _packed);
        yield return new(name + ".weight.absmax", _absmax);
        if (_nested is not null)
        {
            yield return new(name + ".weight.nested_absmax", _nested);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _packed.Dispose();
        _absmax.Dispose();
        _nested?.Dispose();
        _map?.Dispose();
        _book?.Dispose();
    }

    private ScaleTable Scales() => _nested is null
        ? new ScaleTable((float*)AtenTensor.DataPointer(_absmax))
        : new ScaleTable((byte*)AtenTensor.DataPointer(_absmax), (float*)AtenTensor.DataPointer(_map!), (float*)AtenTensor.DataPointer(_nested), _offset);
}
