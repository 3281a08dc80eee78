using LoraSharp.Quantization;

namespace LoraSharp.Tests;

/// <summary>The fused step's memory by formula against what was measured on an H100 (docs/benchmarks/gpu.md), GiB.</summary>
public sealed class GpuMemoryForecastTests
{
    private static readonly GpuMemoryForecast.Shape HalfBillion = new(24, 896, 896, 128, 14, 4864, 151936, 151936L * 896);
    private static readonly GpuMemoryForecast.Shape OneBillion = new(16, 2048, 2048, 512, 32, 8192, 128256, 128256L * 2048);
    private static readonly GpuMemoryForecast.Shape EightBillion = new(32, 4096, 4096, 1024, 32, 14336, 128256, 2 * 128256L * 4096);
    private static readonly GpuMemoryForecast.Shape SixtyFiveBillion = new(80, 8192, 8192, 8192, 64, 22016, 32000, 2 * 32000L * 8192);

    public static TheoryData<string, bool, long, bool, double> Measured => new()
    {
        { "0.5b", false, 8 * 1024, false, 6.95 },
        { "1b", false, 4 * 2048, false, 9.88 },
        { "8b", false, 2 * 2048, false, 28.78 },
        { "8b", true, 2 * 2048, false, 19.02 },
        { "8b", true, 4 * 2048, true, 7.38 },
        { "65b", true, 2048, true, 37.81 },
    };

    [Theory]
    [MemberData(nameof(Measured))]
    public void The_fused_step_is_within_a_tenth_of_what_was_measured(string model, bool fourBits, long tokens, bool checkpointing, double measured)
    {
        GpuMemoryForecast.Shape shape = model switch { "0.5b" => HalfBillion, "1b" => OneBillion, "8b" => EightBillion, _ => SixtyFiveBillion };
        double predicted = GpuMemoryForecast.FusedBytes(shape, 16, fourBits ? new QuantizationOptions() : null, tokens, checkpointing) / (double)(1L << 30);
        Assert.InRange(predicted / measured, 0.9, 1.1);
    }
}
