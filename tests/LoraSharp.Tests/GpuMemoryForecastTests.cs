using LoraSharp.Quantization;

namespace LoraSharp.Tests;

/// <summary>The fused step's memory by formula against what was measured on an H100 (docs/benchmarks/gpu.md), GiB.</summary>
public sealed class GpuMemoryForecastTests
{
    private static readonly GpuMemoryForecast.Shape OneBillion = new(16, 2048, 2048, 512, 32, 8192, 128256, 128256L * 2048);
    private static readonly GpuMemoryForecast.Shape EightBillion = new(32, 4096, 4096, 1024, 32, 14336, 128256, 2 * 128256L * 4096);

    [Theory]
    [InlineData("1b", false, 4, false, 14.8)]
    [InlineData("8b", false, 2, false, 34.4)]
    [InlineData("8b", true, 2, false, 24.6)]
    [InlineData("8b", true, 4, true, 11.6)]
    public void The_fused_step_is_within_a_sixth_of_what_was_measured(string model, bool fourBits, int rows, bool checkpointing, double measured)
    {
        GpuMemoryForecast.Shape shape = model == "1b" ? OneBillion : EightBillion;
        double predicted = GpuMemoryForecast.FusedBytes(shape, 16, fourBits ? new QuantizationOptions() : null, rows * 2048L, checkpointing, packed: false) / (double)(1L << 30);
        Assert.InRange(predicted / measured, 5 / 6.0, 7 / 6.0);
    }
}
