using System.Diagnostics;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>What models of known shapes take, and one layer of the 8B shape quantised for real, matrix by matrix.</summary>
internal static class QuantizedMemoryBenchmark
{
    public static void Run()
    {
        NativeRuntime.EnsureLoaded();
        var options = new QuantizationOptions();
        Console.WriteLine("| shape | parameters | base in bfloat16 GB | 4-bit part GB (bytes a weight) | rest of the base GB | fine-tuning, r = 16, 2,048 tokens GB | the same with 8-bit AdamW |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- | --- |");
        foreach ((string name, ModelShape shape) in ((string, ModelShape)[])[("1B", ModelShape.Llama1B), ("8B", ModelShape.Llama8B), ("65B", ModelShape.Llama65B)])
        {
            MemoryEstimate plain = MemoryEstimate.Of(shape, options, 2, 16, 2048);
            MemoryEstimate eight = MemoryEstimate.Of(shape, options, 2, 16, 2048, eightBitOptimizer: true);
            long weights = shape.LinearWeights + shape.OtherWeights;
            Console.WriteLine(FormattableString.Invariant($"| {name} | {weights:N0} | {2 * weights / 1e9:F2} | {plain.QuantizedBase / 1e9:F2} ({plain.QuantizedBase / (double)shape.LinearWeights:F4}) | {plain.DenseBase / 1e9:F2} | {plain.Total / 1e9:F2} | {eight.Total / 1e9:F2} |"));
        }

        long largest = 0, bytes = 0;
        long before = Resident();
        List<FourBitWeight> layer = [];
        foreach ((long f, long k) in ModelShape.Llama8B.LayerMatrices)
        {
            using Tensor matrix = randn([f, k], ScalarType.BFloat16);
            largest = Math.Max(largest, matrix.NumberOfElements * 2);
            FourBitWeight weight = FourBitWeight.Quantize(matrix, "w", options, CPU);
            bytes += weight.Bytes;
            layer.Add(weight);
        }

        long after = Resident();
        long expected = ModelShape.Llama8B.LayerMatrices.Sum(m => MemoryEstimate.FourBitBytes(m.Out * m.In, options));
        Console.WriteLine(FormattableString.Invariant($"\none layer of the 8B shape, quantised: {bytes:N0} bytes, estimated {expected:N0}; resident memory grew by {(after - before) / 1e6:F0} MB, at its peak by {(Peak() - before) / 1e6:F0} MB; allowed {(bytes + (2 * largest)) / 1e6:F0} MB"));
        layer.ForEach(w => w.Dispose());
    }

    private static long Resident()
    {
        using var process = Process.GetCurrentProcess();
        return process.WorkingSet64;
    }

    private static long Peak()
    {
        using var process = Process.GetCurrentProcess();
        return process.PeakWorkingSet64;
    }
}
