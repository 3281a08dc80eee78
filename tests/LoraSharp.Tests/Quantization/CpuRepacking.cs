using LoraSharp.Quantization;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

/// <summary>
/// What is wrong with two tensors of the fixtures. On a processor with AVX512-BF16, bitsandbytes rearranges a weight at its first
/// forward pass (<c>_convert_weight_packed_for_cpu</c>: rows in groups of 32, scales transposed and in bfloat16), and
/// <c>dequantize_4bit</c>, which the script calls afterwards, still reads the old order. So <c>layers.0.q_proj.dequant</c>
/// and <c>logits_fp32</c> of the two checkpoints belong to scrambled weights, while the files, the codes and the
/// bfloat16 logits are right. Scrambled alike, ours give the same bits, which proves both.
/// </summary>
internal static class CpuRepacking
{
    /// <summary>The matrix as the script saw it, [f, k] float32.</summary>
    public static Tensor Misread(FourBitWeight weight)
    {
        using var scope = NewDisposeScope();
        long rows = weight.Rows;
        long columns = weight.Columns;
        Tensor high = weight.Packed.to(ScalarType.Int32).floor_divide(16);
        Tensor low = weight.Packed.to(ScalarType.Int32).remainder(16);
        Tensor codes = cat([high, low], 1).view(rows / 32, 32, columns / 2, 2).transpose(1, 2).contiguous().view(-1, 64);

        // Of each 64 the first half becomes the low nibbles, the second the high ones, which are read first.
        Tensor read = stack([codes.narrow(1, 32, 32), codes.narrow(1, 0, 32)], 2).reshape(-1);
        Tensor scales = Scales(weight).view(rows, -1).t().to(ScalarType.BFloat16).to(ScalarType.Float32).reshape(-1, 1);
        Tensor table = tensor(weight.Codebook.Values.ToArray());
        Tensor values = table.index_select(0, read).view(-1, weight.BlockSize) * scales;
        return values.view(rows, columns).to(ScalarType.BFloat16).to(ScalarType.Float32).MoveToOuterDisposeScope();
    }

    private static Tensor Scales(FourBitWeight weight)
    {
        if (!weight.IsDoublyQuantized)
        {
            return weight.Absmax;
        }

        float[] scales = new float[weight.Absmax.NumberOfElements];
        DoubleQuantization.Dequantize(weight.Absmax.data<byte>().ToArray(), 0, DynamicMap.Signed.Values.AsSpan(), weight.NestedAbsmax!.data<float>().ToArray(), weight.NestedOffset, scales);
        return tensor(scales);
    }
}
