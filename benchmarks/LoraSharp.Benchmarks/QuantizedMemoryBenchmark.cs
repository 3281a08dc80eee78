using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>What models of known shapes take, checked by quantising the 8B shape part by part and a checkpoint while it loads.</summary>
internal static class QuantizedMemoryBenchmark
{
    public static void Run(string? folder)
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

        Layer(options);
        WholeModel(options);
        if (folder is not null)
        {
            Load(folder);
        }
    }

    /// <summary>One layer of the 8B shape from dense matrices: what it takes, and the peak on the way.</summary>
    private static void Layer(QuantizationOptions options)
    {
        long largest = ModelShape.Llama8B.LayerMatrices.Max(m => m.Out * m.In) * 2;
        (long before, long bytes) = (Resident(), 0);
        List<FourBitWeight> layer = [];
        ResetPeak();
        foreach ((long f, long k) in ModelShape.Llama8B.LayerMatrices)
        {
            using Tensor matrix = randn([f, k], ScalarType.BFloat16);
            FourBitWeight weight = FourBitWeight.Quantize(matrix, "w", options, CPU);
            bytes += weight.Bytes;
            layer.Add(weight);
        }

        long expected = ModelShape.Llama8B.LayerMatrices.Sum(m => MemoryEstimate.FourBitBytes(m.Out * m.In, options));
        Console.WriteLine(FormattableString.Invariant($"\none layer of the 8B shape, quantised: {bytes:N0} bytes, estimated {expected:N0}; resident memory grew by {(Resident() - before) / 1e6:F0} MB, at its peak by {(Peak() - before) / 1e6:F0} MB; allowed {(bytes + (2 * largest)) / 1e6:F0} MB"));
        layer.ForEach(w => w.Dispose());
    }

    /// <summary>The 8B shape part by part: 32 layers in 4 bits, embedding and head in bfloat16, held together.</summary>
    private static void WholeModel(QuantizationOptions options)
    {
        long before = Resident();
        ModelShape shape = ModelShape.Llama8B;
        MemoryEstimate estimate = MemoryEstimate.Of(shape, options, 2, 0, 0);
        List<IDisposable> parts = [];
        long bytes = 0;
        for (int i = 0; i < shape.Layers; i++)
        {
            foreach ((long f, long k) in shape.LayerMatrices)
            {
                // Not random numbers, which would take minutes: their size is what matters here.
                using var scope = NewDisposeScope();
                FourBitWeight weight = FourBitWeight.Quantize(arange(f * k, ScalarType.Float32).mul_(0.7389 + i).sin_().to(ScalarType.BFloat16).view(f, k), "w", options, CPU);
                bytes += weight.Bytes;
                parts.Add(weight);
            }
        }

        Tensor rest = ones([shape.OtherWeights], ScalarType.BFloat16);
        parts.Add(rest);
        HostAllocator.ReturnLargeBlocks();
        Console.WriteLine(FormattableString.Invariant($"8B shape by parts: 4-bit part {bytes:N0} bytes, estimated {estimate.QuantizedBase:N0}; with the rest {bytes + (2 * rest.NumberOfElements):N0}, estimated {estimate.QuantizedBase + estimate.DenseBase:N0}; resident memory grew by {(Resident() - before) / 1e6:N0} MB"));
        parts.ForEach(p => p.Dispose());
    }

    /// <summary>A checkpoint quantised while it loads: its codes, and the peak on the way.</summary>
    private static void Load(string folder)
    {
        using ModelSource source = ModelSource.OpenFolder(folder);
        long largest = source.Tensors.Tensors.Values.Max(t => t.ByteCount);
        long before = Resident();
        ResetPeak();
        using var factory = new Nf4LinearFactory(new QuantizationOptions(), new DenseLinearFactory());
        using CausalLanguageModel model = ModelLoader.Load(source, factory, ScalarType.BFloat16, CPU);
        Console.WriteLine(FormattableString.Invariant($"{Path.GetFileName(folder)}: {factory.QuantizedWeights:N0} weights in {factory.QuantizedBytes:N0} bytes, {factory.QuantizedBytes / (double)factory.QuantizedWeights:F5} a weight; resident memory grew by {(Resident() - before) / 1e6:F0} MB, at its peak by {(Peak() - before) / 1e6:F0} MB; two of the largest tensors are {2 * largest / 1e6:F0} MB"));
    }

    private static long Resident() => Status("VmRSS:");

    private static long Peak() => Status("VmHWM:");

    // Linux only, like the figures.
    private static void ResetPeak() => File.WriteAllText("/proc/self/clear_refs", "5");

    private static long Status(string key) =>
        1024 * long.Parse(File.ReadLines("/proc/self/status").First(l => l.StartsWith(key, StringComparison.Ordinal))[key.Length..].Replace("kB", string.Empty, StringComparison.Ordinal), System.Globalization.CultureInfo.InvariantCulture);
}
