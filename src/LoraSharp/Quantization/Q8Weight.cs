using LoraSharp.Formats;
using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// A matrix [f, k] in signed bytes, 32 of which share a scale: GGUF's Q8_0, scales rounded to half precision, but codes
/// and scales each in an array of their own. A matrix that was Q8_0 before comes out with the same codes and scales.
/// </summary>
public sealed unsafe class Q8Weight : IQuantizedMatrix
{
    /// <summary>Weights a scale.</summary>
    public const int BlockSize = 32;

    private readonly Tensor _codes;
    private readonly Tensor _scales;

    private Q8Weight(Tensor codes, Tensor scales, ScalarType dtype)
    {
        _codes = codes;
        _scales = scales;
        DType = dtype;
    }

    /// <inheritdoc/>
    public long Rows => _codes.shape[0];

    /// <inheritdoc/>
    public long Columns => _codes.shape[1];

    /// <inheritdoc/>
    public ScalarType DType { get; }

    /// <inheritdoc/>
    public Device Device => _codes.device;

    /// <inheritdoc/>
    public long Bytes => _codes.NumberOfElements + (_scales.NumberOfElements * sizeof(float));

    /// <summary>Whether a matrix can be stored like this: rows are whole blocks.</summary>
    public static bool Supports(long columns) => columns % BlockSize == 0;

    /// <summary>Quantises a matrix.</summary>
    /// <param name="matrix">[f, k], k a multiple of 32.</param>
    /// <param name="name">For messages.</param>
    /// <param name="device">Where the result goes.</param>
    public static Q8Weight Quantize(Tensor matrix, string name, Device device)
    {
        ArgumentNullException.ThrowIfNull(matrix);
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Tensor blocks = matrix.to(ScalarType.Float32).reshape(matrix.shape[0], -1, BlockSize);
        Tensor largest = blocks.abs().amax([2]);
        if (!largest.isfinite().all().item<bool>())
        {
            throw new LoraSharpException($"{name}: holds NaN or infinity, which cannot be quantised. The checkpoint is damaged, or of a type too narrow for it.");
        }

        // ggml divides by the unrounded scale and stores it as a half.
        Tensor scale = largest / 127.0;
        Tensor reciprocal = where(scale > 0.0, scale.reciprocal(), zeros_like(scale));
        Tensor scaled = blocks * reciprocal.unsqueeze(2);
        Tensor codes = (scaled.abs() + 0.5).floor() * scaled.sign();
        return new Q8Weight(
            codes.to(ScalarType.Int8).view(matrix.shape).to(device).DetachFromDisposeScope(),
            scale.to(ScalarType.Float16).to(ScalarType.Float32).to(device).contiguous().DetachFromDisposeScope(),
            matrix.dtype);
    }

    /// <inheritdoc/>
    public bool CanMultiply(long rows, ScalarType dtype) =>
        rows <= Q8Multiplier.MostRows && (dtype is ScalarType.Float32 or ScalarType.BFloat16) && _codes.device_type == DeviceType.CPU;

    /// <inheritdoc/>
    public Tensor Multiply(Tensor x)
    {
        ArgumentNullException.ThrowIfNull(x);
        using var scope = NewDisposeScope();
        Tensor input = x.to(ScalarType.Float32);
        Tensor y = empty([x.shape[0], Rows], ScalarType.Float32);
        Q8Multiplier.Multiply((sbyte*)AtenTensor.DataPointer(_codes), (float*)AtenTensor.DataPointer(_scales), (float*)AtenTensor.DataPointer(input), (float*)AtenTensor.DataPointer(y), (int)x.shape[0], (int)Columns, (int)Rows, VectorWidths.Best);
        return y.to(x.dtype).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void DequantizeInto(Tensor target)
    {
        ArgumentNullException.ThrowIfNull(target);
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Tensor values = _codes.view(Rows, -1, BlockSize).to(ScalarType.Float32).mul_(_scales.unsqueeze(2));
        target.copy_(values.view(Rows, Columns).to(DType));
    }

    /// <summary><c>NAME.weight</c> and <c>NAME.weight.scale</c>: no checkpoint format of transformers has these.</summary>
    public IEnumerable<NamedTensor> Named(string name) => [new(name + ".weight", _codes), new(name + ".weight.scale", _scales)];

    /// <inheritdoc/>
    public void Dispose()
    {
        _codes.Dispose();
        _scales.Dispose();
    }
}
