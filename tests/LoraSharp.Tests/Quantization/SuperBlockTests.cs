using LoraSharp.Formats.Gguf;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

/// <summary>Kernels on Q4_K, Q5_K and Q6_K blocks as a file has them, against GGUF's plain decoder and dense products.</summary>
public sealed unsafe class SuperBlockTests
{
    public SuperBlockTests() => NativeRuntime.EnsureLoaded();

    /// <summary>A row of x with a single one gives a column of W: each weight as the kernel has it, with nothing added.</summary>
    [Theory]
    [InlineData(GgufTensorType.Q4_K)]
    [InlineData(GgufTensorType.Q5_K)]
    [InlineData(GgufTensorType.Q6_K)]
    public void Every_weight_is_the_file_formats_bit_for_bit(GgufTensorType type)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        const int Rows = 7, Columns = 512;
        byte[] blocks = RandomBlocks(type, Rows * Columns);
        float[] expected = new float[Rows * Columns];
        GgufDequantizer.DequantizePlain(type, blocks, expected);
        fixed (byte* pointer = blocks)
        {
            using var weight = new StoredBlockWeight(type, Rows, Columns, pointer);
            Tensor ones = eye(Columns);
            foreach (VectorWidth width in FourBitKernelTests.Widths())
            {
                // One row, and four that are taken together.
                foreach (int together in (int[])[1, 4])
                {
                    var columns = new List<Tensor>();
                    for (int i = 0; i < Columns; i += together)
                    {
                        columns.Add(weight.Multiply(ones.narrow(0, i, together).contiguous(), [together, Rows], width));
                    }

                    Assert.Equal(expected, cat([.. columns], 0).t().contiguous().data<float>().ToArray());
                }
            }
        }
    }

    [Theory]
    [InlineData(GgufTensorType.Q4_K)]
    [InlineData(GgufTensorType.Q5_K)]
    [InlineData(GgufTensorType.Q6_K)]
    public void Every_version_of_the_kernel_gives_the_product(GgufTensorType type)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        foreach ((int f, int k) in ((int, int)[])[(3, 256), (65, 768), (300, 2048), (5, 8448)])
        {
            byte[] blocks = RandomBlocks(type, f * k);
            fixed (byte* pointer = blocks)
            {
                using var weight = new StoredBlockWeight(type, f, k, pointer);
                using Tensor dense = weight.Dequantize(ScalarType.Float32);
                foreach (long rows in (long[])[1, 3, 6, 8])
                {
                    foreach (ScalarType dtype in (ScalarType[])[ScalarType.Float32, ScalarType.BFloat16])
                    {
                        Assert.True(weight.CanMultiply(rows, dtype) || VectorWidths.Best == VectorWidth.Scalar);
                        Tensor x = randn(1, rows, k).to(dtype);
                        Tensor expected = x.to(ScalarType.Float32).matmul(dense.t());
                        double scale = expected.abs().max().item<float>();
                        foreach (VectorWidth width in FourBitKernelTests.Widths())
                        {
                            Tensor y = weight.Multiply(x, [1, rows, f], width);
                            Assert.Equal(dtype, y.dtype);
                            double away = (y.to(ScalarType.Float32) - expected).abs().max().item<float>();
                            Assert.True(away <= (dtype == ScalarType.Float32 ? 1e-5 : 1e-2) * scale, $"{width} {dtype} {f} {k} {rows}: {away} of {scale}");
                        }
                    }
                }
            }
        }
    }

    // Any codes and group scales; scales of blocks that are subnormal, negative, zero, not infinite or NaN.
    private static byte[] RandomBlocks(GgufTensorType type, int weights)
    {
        byte[] blocks = new byte[type.ByteCount(weights)];
        new Random(weights).NextBytes(blocks);
        for (int i = 0, n = 0; i < blocks.Length; i += type.BlockBytes(), n++)
        {
            var scale = (Half)(n % 5 == 1 ? 3e-7 : n % 5 == 2 ? -0.25 : n % 7 == 3 ? 0 : 0.01 * (1 + (n % 9)));
            BitConverter.TryWriteBytes(blocks.AsSpan(type == GgufTensorType.Q6_K ? i + 208 : i), scale);
            if (type != GgufTensorType.Q6_K)
            {
                BitConverter.TryWriteBytes(blocks.AsSpan(i + 2), (Half)(n % 4 == 0 ? 5e-7 : -0.02 * (n % 11)));
            }
        }

        return blocks;
    }
}
