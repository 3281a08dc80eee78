using System.Runtime.InteropServices;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Formats.Tests.Gguf;

public sealed class GgufBlockTests
{
    private static readonly GgufTensorType[] InFixture =
    [
        GgufTensorType.F16, GgufTensorType.BF16, GgufTensorType.Q4_0, GgufTensorType.Q4_1, GgufTensorType.Q5_0, GgufTensorType.Q5_1,
        GgufTensorType.Q8_0, GgufTensorType.Q2_K, GgufTensorType.Q3_K, GgufTensorType.Q4_K, GgufTensorType.Q5_K, GgufTensorType.Q6_K,
        GgufTensorType.IQ4_NL, GgufTensorType.IQ4_XS, GgufTensorType.TQ1_0, GgufTensorType.TQ2_0, GgufTensorType.MXFP4,
    ];

    public static TheoryData<GgufTensorType> Types => [.. InFixture];

    [Theory]
    [MemberData(nameof(Types))]
    public void Decodes_as_the_reference_bit_for_bit(GgufTensorType type)
    {
        using SafetensorsFile blocks = SafetensorsFile.Open(Fixtures.Path("gguf/blocks.safetensors"));
        byte[] raw = Bytes(blocks, $"{type}.raw");
        byte[] expected = Bytes(blocks, $"{type}.float32");
        float[] output = new float[expected.Length / 4];
        GgufDequantizer.Dequantize(type, raw, output);
        Assert.Equal(expected, MemoryMarshal.AsBytes(output.AsSpan()).ToArray());
        Array.Fill(output, 7);
        GgufDequantizer.DequantizePlain(type, raw, output);
        Assert.Equal(expected, MemoryMarshal.AsBytes(output.AsSpan()).ToArray());
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void The_vectorised_decoder_equals_the_plain_one_on_any_bytes(GgufTensorType type)
    {
        int blocks = 37;
        byte[] raw = new byte[blocks * type.BlockBytes()];
        new Random(5).NextBytes(raw);
        float[] fast = new float[blocks * type.BlockWeights()];
        float[] plain = new float[fast.Length];
        GgufDequantizer.Dequantize(type, raw, fast);
        GgufDequantizer.DequantizePlain(type, raw, plain);
        for (int i = 0; i < plain.Length; i++)
        {
            // The sign and payload of NaN are no part of the contract.
            Assert.True(BitConverter.SingleToInt32Bits(plain[i]) == BitConverter.SingleToInt32Bits(fast[i]) || (float.IsNaN(plain[i]) && float.IsNaN(fast[i])), $"weight {i}: {plain[i]} and {fast[i]}");
        }
    }

    [Fact]
    public unsafe void A_long_run_in_pieces_equals_one_in_one()
    {
        byte[] raw = new byte[34 * 10_000];
        new Random(6).NextBytes(raw);
        float[] whole = new float[320_000];
        float[] pieces = new float[320_000];
        GgufDequantizer.DequantizePlain(GgufTensorType.Q8_0, raw, whole);
        fixed (byte* source = raw)
        fixed (float* output = pieces)
        {
            GgufDequantizer.Dequantize(GgufTensorType.Q8_0, source, output, pieces.Length);
        }

        Assert.Equal(whole, pieces);
    }

    private static byte[] Bytes(SafetensorsFile file, string name)
    {
        TensorData data = file.Read(name);
        return data.Slice(0, (int)data.Info.ByteCount).ToArray();
    }
}
