using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>A matrix [f, k] in fewer bits than its compute type; owns its tensors.</summary>
public interface IQuantizedMatrix : IDisposable
{
    /// <summary>f.</summary>
    long Rows { get; }

    /// <summary>k.</summary>
    long Columns { get; }

    /// <summary>The type before quantisation: what is dequantised has this type's precision.</summary>
    ScalarType DType { get; }

    /// <summary>Where it lies.</summary>
    Device Device { get; }

    /// <summary>Bytes of codes and scales: what the matrix costs.</summary>
    long Bytes { get; }

    /// <summary>Whether <see cref="Multiply"/> takes x of this many rows in this type, here.</summary>
    bool CanMultiply(long rows, ScalarType dtype);

    /// <summary>x·Wᵀ for few rows, without dequantising W into memory.</summary>
    /// <param name="x">[..., k] contiguous.</param>
    /// <param name="shape">[..., f], of the result, which has x's type.</param>
    Tensor Multiply(Tensor x, long[] shape);

    /// <summary>Writes the matrix into a contiguous tensor [f, k] on the same device.</summary>
    void DequantizeInto(Tensor target);

    /// <summary>Its tensors by the names a checkpoint has for them.</summary>
    /// <param name="name">Path of the layer.</param>
    IEnumerable<NamedTensor> Named(string name);
}

/// <summary>What every quantised matrix can do.</summary>
public static class QuantizedMatrices
{
    /// <summary>The matrix [f, k] in a floating-point type, as a tensor the caller disposes.</summary>
    public static Tensor Dequantize(this IQuantizedMatrix matrix, ScalarType dtype)
    {
        ArgumentNullException.ThrowIfNull(matrix);
        Tensor target = empty([matrix.Rows, matrix.Columns], dtype, matrix.Device);
        matrix.DequantizeInto(target);
        return target;
    }
}
