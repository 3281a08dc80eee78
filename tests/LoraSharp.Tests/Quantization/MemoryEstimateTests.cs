using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

public sealed class MemoryEstimateTests
{
    [Theory]
    [InlineData(64, true, 0.515869140625)]
    [InlineData(64, false, 0.5625)]
    [InlineData(4096, true, 0.50024795532226562)]
    public void BytesAWeightAreExact(int blockSize, bool twice, double expected)
    {
        NativeRuntime.EnsureLoaded();
        var options = new QuantizationOptions { BlockSize = blockSize, DoubleQuantization = twice };
        using Tensor matrix = randn(1024, 1024);
        using FourBitWeight weight = FourBitWeight.Quantize(matrix, "w", options, CPU);
        Assert.Equal(MemoryEstimate.FourBitBytes(1 << 20, options), weight.Bytes);
        Assert.Equal(expected, weight.Bytes / (double)(1 << 20), 1e-6);
        Assert.True(blockSize != 64 || !twice || weight.Bytes <= 0.52 * (1 << 20));
    }

    [Fact]
    public void ShapesHaveTheParametersTheirNamesSay()
    {
        Assert.Equal(1_235_814_400, ModelShape.Llama1B.LinearWeights + ModelShape.Llama1B.OtherWeights);
        Assert.Equal(8_030_261_248, ModelShape.Llama8B.LinearWeights + ModelShape.Llama8B.OtherWeights);
        Assert.Equal(65_285_660_672, ModelShape.Llama65B.LinearWeights + ModelShape.Llama65B.OtherWeights);
    }

    /// <summary>QLoRA's abstract: 65 B parameters fine-tuned on one 48 GB card.</summary>
    [Fact]
    public void SixtyFiveBillionFitFortyEightGigabytes()
    {
        MemoryEstimate estimate = MemoryEstimate.Of(ModelShape.Llama65B, new QuantizationOptions(), 2, 16, 512, eightBitOptimizer: true);
        Assert.InRange(estimate.Total, 34_000_000_000, 48_000_000_000);
        MemoryEstimate dense = MemoryEstimate.Of(ModelShape.Llama65B, null, 2, 16, 512);
        Assert.True(dense.Total > 130_000_000_000);
        Assert.Equal(0, dense.QuantizedBase);
    }
}
