using LoraSharp.Adapters;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>A whole model dense and in 4 bits: one token at a time, and a LoRA training step.</summary>
internal static class QuantizedModelBenchmark
{
    public static void Run(string path)
    {
        NativeRuntime.EnsureLoaded();
        set_num_threads(int.TryParse(Environment.GetEnvironmentVariable("OMP_NUM_THREADS"), out int threads) ? threads : Environment.ProcessorCount);
        using ModelSource source = File.Exists(path) ? GgufCheckpoint.OpenModel(path) : ModelSource.OpenFolder(path);
        Console.WriteLine("| base | MB of linear layers | ms a token (decode at 64) | ms a LoRA step, 2 × 128 tokens |");
        Console.WriteLine("| --- | --- | --- | --- |");
        foreach (ScalarType dtype in (ScalarType[])[ScalarType.BFloat16, ScalarType.Float32])
        {
            foreach (bool quantize in (bool[])[false, true])
            {
                using var factory = new Nf4LinearFactory(quantize ? new QuantizationOptions() : null, new DenseLinearFactory());
                using var adapters = new AdapterSet();
                using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, factory), dtype, CPU);
                long bytes = quantize ? factory.QuantizedBytes : model.Linears.Where(l => !l.Spec.IsOutputHead).Sum(l => l.Spec.InFeatures * l.Spec.OutFeatures) * (dtype == ScalarType.BFloat16 ? 2 : 4);
                double decode = Decode(model);
                adapters.Create(new LoraOptions(), 1);
                adapters.Training = true;
                double step = Step(model, adapters);
                Console.WriteLine($"| {(quantize ? "NF4, double" : "dense")} {dtype} | {bytes / 1e6:F1} | {decode * 1e3:F2} | {step * 1e3:F0} |");
            }
        }
    }

    private static double Decode(CausalLanguageModel model)
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        using var cache = new KeyValueCache(model.LayerCount);
        using Tensor prompt = model.Forward(arange(10, 74).unsqueeze(0), arange(64).unsqueeze(0), cache);
        Tensor id = tensor(new long[] { 17 }).unsqueeze(0);
        long at = 64;
        return Stopwatches.Fastest(() =>
        {
            using Tensor position = tensor(new[] { at++ }).unsqueeze(0);
            model.Forward(id, position, cache).Dispose();
        }, 2);
    }

    private static double Step(CausalLanguageModel model, AdapterSet adapters)
    {
        using var outer = NewDisposeScope();
        Tensor ids = randint(10, 1000, [2, 128]);
        NamedTensor[] trainable = [.. adapters.Trainable];
        return Stopwatches.Fastest(() =>
        {
            using var scope = NewDisposeScope();
            using var attention = new PaddedAttention();
            Tensor hidden = model.Hidden(ids, arange(128).unsqueeze(0), attention);
            hidden.to(ScalarType.Float32).square().mean().backward();
            foreach (NamedTensor tensor in trainable)
            {
                tensor.Value.grad = null;
            }
        }, 4);
    }
}
