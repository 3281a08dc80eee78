using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Formats.Tests.Gguf;

public sealed class GgufQuantizerTests
{
    [Theory]
    [InlineData(GgufTensorType.F16)]
    [InlineData(GgufTensorType.BF16)]
    [InlineData(GgufTensorType.Q8_0)]
    [InlineData(GgufTensorType.Q4_0)]
    [InlineData(GgufTensorType.Q4_1)]
    [InlineData(GgufTensorType.Q5_0)]
    [InlineData(GgufTensorType.Q5_1)]
    public void Encodes_as_the_reference_byte_for_byte(GgufTensorType type)
    {
        using SafetensorsFile input = SafetensorsFile.Open(Fixtures.Path("gguf/blocks-input.safetensors"));
        using SafetensorsFile blocks = SafetensorsFile.Open(Fixtures.Path("gguf/blocks.safetensors"));
        float[] weights = GgufCheckpointTests.Floats(input.Read(type.ToString()));
        TensorData raw = blocks.Read($"{type}.raw");
        byte[] bytes = new byte[raw.Info.ByteCount];
        GgufQuantizer.Quantize(type, weights, bytes);
        Assert.Equal(raw.Slice(0, bytes.Length).ToArray(), bytes);
    }

    // Bounds on the relative root-mean-square error of normal weights. For comparison, rounding to 16 levels between
    // minimum and maximum of each 32 (Q4_1) has 0.077, Q5_1 0.037, Q8_0 0.0042.
    [Theory]
    [InlineData(GgufTensorType.Q4_K, 0.075)]
    [InlineData(GgufTensorType.Q6_K, 0.021)]
    public void The_searched_types_are_as_close_as_their_bits_allow(GgufTensorType type, double bound)
    {
        float[] weights = Normal(256 * 400, 11);
        Assert.InRange(RelativeError(type, weights), 0.001, bound);
    }

    [Fact]
    public void Six_bits_are_better_than_five_and_a_search_better_than_none()
    {
        float[] weights = Normal(256 * 400, 12);
        Assert.True(RelativeError(GgufTensorType.Q4_K, weights) < RelativeError(GgufTensorType.Q4_0, weights));
        Assert.True(RelativeError(GgufTensorType.Q6_K, weights) < RelativeError(GgufTensorType.Q5_1, weights));
    }

    [Fact]
    public void Zeros_and_constants_survive_every_type()
    {
        foreach (GgufTensorType type in GgufQuantizer.Types)
        {
            Assert.All(RoundTrip(type, new float[256]), v => Assert.Equal(0, v));
            float[] constant = new float[256];
            Array.Fill(constant, -0.5f);
            Assert.All(RoundTrip(type, constant), v => Assert.InRange(v, -0.51f, -0.49f));
        }
    }

    [Fact]
    public void Pieces_on_all_cores_equal_one_run()
    {
        float[] weights = Normal(256 * 300, 13);
        byte[] whole = new byte[GgufTensorType.Q4_K.ByteCount(weights.Length)];
        GgufQuantizer.Quantize(GgufTensorType.Q4_K, weights, whole);
        byte[] single = new byte[144];
        for (int i = 0; i < 300; i++)
        {
            GgufQuantizer.Quantize(GgufTensorType.Q4_K, weights.AsSpan(i * 256, 256), single);
            Assert.Equal(single, whole.AsSpan(i * 144, 144).ToArray());
        }
    }

    private static double RelativeError(GgufTensorType type, float[] weights)
    {
        float[] back = RoundTrip(type, weights);
        double error = 0;
        double norm = 0;
        for (int i = 0; i < weights.Length; i++)
        {
            error += Math.Pow(weights[i] - back[i], 2);
            norm += Math.Pow(weights[i], 2);
        }

        return Math.Sqrt(error / norm);
    }

    private static float[] RoundTrip(GgufTensorType type, float[] weights)
    {
        byte[] bytes = new byte[type.ByteCount(weights.Length)];
        GgufQuantizer.Quantize(type, weights, bytes);
        float[] back = new float[weights.Length];
        GgufDequantizer.Dequantize(type, bytes, back);
        return back;
    }

    private static float[] Normal(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble())))];
    }
}
