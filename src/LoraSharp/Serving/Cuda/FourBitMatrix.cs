using LoraSharp.Quantization;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Serving.Cuda;

/// <summary>
/// Up to three 4-bit matrices that read the same input, as <see cref="FourBitProduct"/> multiplies them; they stay where they are
/// and their owner's. Outputs lie side by side in the parts' order.
/// </summary>
internal sealed class FourBitMatrix
{
    private const int MostParts = 3;

    /// <summary>Puts matrices together; <see cref="Obstacle"/> must be null.</summary>
    public FourBitMatrix(IReadOnlyList<FourBitWeight> parts)
    {
        if (Obstacle(parts) is { } obstacle)
        {
            throw new ArgumentException(obstacle, nameof(parts));
        }

        Parts = parts;
        Outputs = [.. parts.Select(p => p.Rows)];
    }

    /// <summary>The matrices [f, k].</summary>
    public IReadOnlyList<FourBitWeight> Parts { get; }

    /// <summary>f of each.</summary>
    public IReadOnlyList<long> Outputs { get; }

    /// <summary>k.</summary>
    public long Columns => Parts[0].Columns;

    /// <summary>Weights a scale.</summary>
    public int BlockSize => Parts[0].BlockSize;

    /// <summary>Why matrices cannot be multiplied this way; null when they can.</summary>
    public static string? Obstacle(IReadOnlyList<FourBitWeight> parts) =>
        parts.Count is 0 or > MostParts ? $"one to {MostParts} matrices go together, not {parts.Count}"
        : parts.Any(p => p.Codebook != parts[0].Codebook || p.BlockSize != parts[0].BlockSize || p.Columns != parts[0].Columns) ? "4-bit matrices that read the same input must be of one type and block size"
        : parts.Any(p => p.DType == ScalarType.Float16) ? "4-bit matrices that were float16 before round twice"
        : parts.Any(p => p.Columns % 32 != 0 || p.Rows % 8 != 0 || p.Rows * p.Columns >= int.MaxValue - FourBitCodebook.LargestBlock) ? "4-bit matrices must have k a multiple of 32 and f of 8, and fewer than 2³¹ weights"
        : parts.Any(p => AtenTensor.DataPointer(p.Packed) % 16 != 0) ? "codes of 4-bit matrices must lie at multiples of 16 bytes"
        : null;

    /// <summary>The values [f, k] in bfloat16, one after the other of the parts; a new tensor.</summary>
    public Tensor Dequantize()
    {
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        Tensor all = empty([Outputs.Sum(), Columns], ScalarType.BFloat16, Parts[0].Device);
        long row = 0;
        foreach (FourBitWeight part in Parts)
        {
            part.DequantizeInto(all.narrow(0, row, part.Rows));
            row += part.Rows;
        }

        return all.MoveToOuterDisposeScope();
    }
}
