using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

/// <summary>Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 in memory: codes against GGUF's own decoder, every version of the kernels against dense products.</summary>
public sealed unsafe class ScaledBlockTests
{
    public ScaledBlockTests() => NativeRuntime.EnsureLoaded();

    [Theory]
    [InlineData(GgufTensorType.Q8_0)]
    [InlineData(GgufTensorType.Q4_0)]
    [InlineData(GgufTensorType.Q4_1)]
    [InlineData(GgufTensorType.Q5_0)]
    [InlineData(GgufTensorType.Q5_1)]
    public void Every_version_of_the_kernel_gives_the_product(GgufTensorType type)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        foreach ((long f, long k) in ((long, long)[])[(3, 32), (7, 96), (65, 576), (300, 2048), (5, 8224)])
        {
            using ScaledBlockWeight weight = ScaledBlockWeight.Quantize(randn(f, k), "w", type, CPU);
            Tensor dense = weight.Dequantize(ScalarType.Float32);
            foreach (long rows in (long[])[1, 3, 8])
            {
                foreach (ScalarType dtype in (ScalarType[])[ScalarType.Float32, ScalarType.BFloat16])
                {
                    Tensor x = randn(1, rows, k).to(dtype);
                    Tensor expected = x.to(ScalarType.Float32).matmul(dense.t());
                    double tolerance = dtype == ScalarType.Float32 ? 1e-5 : 1e-2;
                    foreach (VectorWidth width in FourBitKernelTests.Widths())
                    {
                        Tensor y = weight.Multiply(x, [1, rows, f], width);
                        Assert.Equal(dtype, y.dtype);
                        Assert.True(y.to(ScalarType.Float32).allclose(expected, tolerance, tolerance * 10 * Math.Sqrt(k) / 10), $"{width} {dtype} {f} {k} {rows}");
                    }
                }
            }
        }
    }

    [Theory]
    [InlineData(GgufTensorType.Q8_0)]
    [InlineData(GgufTensorType.Q4_0)]
    [InlineData(GgufTensorType.Q4_1)]
    [InlineData(GgufTensorType.Q5_0)]
    [InlineData(GgufTensorType.Q5_1)]
    public void Dequantised_weights_are_those_of_the_file_format_bit_for_bit(GgufTensorType type)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        const int Rows = 5, Columns = 4128;
        byte[] blocks = new byte[type.ByteCount(Rows * Columns)];
        new Random(3).NextBytes(blocks);
        for (int i = 0; i < blocks.Length; i += type.BlockBytes())
        {
            // Any scale: subnormal, negative, zero; not infinite or NaN, of which no two are equal.
            Half scale = (Half)(i % 3 == 0 ? 3e-7 : i % 5 == 0 ? -0.25 : i % 7 == 0 ? 0 : 1.5 * i);
            BitConverter.TryWriteBytes(blocks.AsSpan(i), scale);
            if (type is GgufTensorType.Q4_1 or GgufTensorType.Q5_1)
            {
                BitConverter.TryWriteBytes(blocks.AsSpan(i + 2), (Half)(i % 4 == 0 ? 5e-7 : -0.75 * i));
            }
        }

        float[] expected = new float[Rows * Columns];
        GgufDequantizer.DequantizePlain(type, blocks, expected);
        fixed (byte* pointer = blocks)
        {
            using ScaledBlockWeight weight = ScaledBlockWeight.FromBlocks(type, Rows, Columns, pointer);
            Assert.Equal(blocks.Length, weight.Bytes);
            Assert.Equal(expected, weight.DequantizeByOperators().data<float>().ToArray());
            foreach (VectorWidth width in FourBitKernelTests.Widths())
            {
                Tensor whole = empty(Rows, Columns);
                weight.DequantizeInto(whole, width);
                Assert.Equal(expected, whole.data<float>().ToArray());
                Tensor rounded = empty([Rows, Columns], ScalarType.BFloat16);
                weight.DequantizeInto(rounded, width);
                Assert.True(rounded.equal(whole.to(ScalarType.BFloat16)).all().item<bool>());
            }
        }
    }

    [Fact]
    public void Half_precision_widens_bit_for_bit()
    {
        ushort[] halves = [.. Enumerable.Range(0, 65536).Select(i => (ushort)i)];
        float[] wide = new float[halves.Length];
        fixed (ushort* source = halves)
        fixed (float* target = wide)
        {
            HalfConversion.HalfToSingle(source, target, halves.Length);
        }

        for (int i = 0; i < halves.Length; i++)
        {
            float expected = (float)BitConverter.UInt16BitsToHalf(halves[i]);
            Assert.True(float.IsNaN(expected) ? float.IsNaN(wide[i]) : BitConverter.SingleToInt32Bits(expected) == BitConverter.SingleToInt32Bits(wide[i]), $"{i:X4}");
        }
    }

    [Fact]
    public void Quantising_in_pieces_gives_the_writers_bytes()
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        Tensor w = randn(70, 65536);
        w[3] = zeros(65536);
        using ScaledBlockWeight weight = ScaledBlockWeight.Quantize(w.to(ScalarType.BFloat16), "w", GgufTensorType.Q8_0, CPU);
        float[] values = w.to(ScalarType.BFloat16).to(ScalarType.Float32).data<float>().ToArray();
        byte[] blocks = new byte[GgufTensorType.Q8_0.ByteCount(values.Length)];
        GgufQuantizer.Quantize(GgufTensorType.Q8_0, values, blocks);
        GgufDequantizer.DequantizePlain(GgufTensorType.Q8_0, blocks, values);
        Assert.True(weight.Dequantize(ScalarType.Float32).view(-1).equal(tensor(values)).all().item<bool>());
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.NegativeInfinity)]
    [InlineData(1e9f)]
    public void What_has_no_scale_is_refused_by_name(float value)
    {
        using var scope = NewDisposeScope();
        Tensor w = randn(4, 64);
        w[2, 5] = value;
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => ScaledBlockWeight.Quantize(w, "model.w", GgufTensorType.Q8_0, CPU));
        Assert.StartsWith("model.w: rows 0 to 3 hold NaN, infinity or values too large", error.Message, StringComparison.Ordinal);
    }
}
