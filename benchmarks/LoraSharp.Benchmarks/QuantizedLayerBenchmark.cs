using LoraSharp.Layers;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>One frozen layer, dense and in 4 bits, forward and backward: short enough that its minimum means something on a busy machine.</summary>
internal static class QuantizedLayerBenchmark
{
    public static void Run()
    {
        NativeRuntime.EnsureLoaded();
        set_num_threads(int.TryParse(Environment.GetEnvironmentVariable("OMP_NUM_THREADS"), out int threads) ? threads : Environment.ProcessorCount);
        Console.WriteLine($"{get_num_threads()} threads");
        Console.WriteLine("| layer, tokens | type | dense forward, backward µs | NF4 forward, backward µs | step ratio |");
        Console.WriteLine("| --- | --- | --- | --- | --- |");
        foreach ((long f, long k, long tokens) in ((long, long, long)[])[(1536, 576, 256), (576, 1536, 256), (2048, 2048, 256), (2048, 2048, 1024), (2048, 2048, 2048)])
        {
            foreach (ScalarType dtype in (ScalarType[])[ScalarType.BFloat16, ScalarType.Float32])
            {
                using var scope = NewDisposeScope();
                using var buffer = new DequantizationBuffer();
                Tensor matrix = randn(f, k).to(dtype);
                var spec = new LinearSpec("layer", k, f, false);
                using var dense = new DenseLinear(spec, matrix, null);
                using var quantized = new QuantizedLinear(spec, FourBitWeight.Quantize(matrix, "layer", new QuantizationOptions(), CPU), null, buffer);
                (double forward, double backward) = Time(dense, tokens, k, dtype);
                (double forward4, double backward4) = Time(quantized, tokens, k, dtype);
                Console.WriteLine($"| [{f}, {k}], {tokens} | {dtype} | {forward * 1e6:F0}, {backward * 1e6:F0} | {forward4 * 1e6:F0}, {backward4 * 1e6:F0} | {(forward4 + backward4) / (forward + backward):F2} |");
            }
        }
    }

    private static (double Forward, double Backward) Time(LinearLayer layer, long tokens, long k, ScalarType dtype)
    {
        using var outer = NewDisposeScope();
        Tensor x = randn(1, tokens, k).to(dtype).requires_grad_();
        double forward = Stopwatches.Fastest(() => layer.Forward(x).Dispose(), 0.5);
        Tensor gradient = randn(1, tokens, layer.Spec.OutFeatures).to(dtype);
        double both = Stopwatches.Fastest(
            () =>
            {
                using var scope = NewDisposeScope();
                layer.Forward(x).backward([gradient]);
                x.grad = null;
            },
            1);
        return (forward, both - forward);
    }
}
