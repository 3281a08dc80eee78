using System.Diagnostics;
using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using LoraSharp.Training;
using LoraSharp.Training.Sweeps;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Eight adapters (r = 8, q and v) side by side against one after the other, beside the floor: the base's matrix products
/// alone, forward and for dX, of the same tokens in one pass. No way of training eight adapters on their own tokens can
/// be faster than that, so eight single steps over the floor is the most that could be gained.
/// </summary>
internal static class SweepBenchmark
{
    private const int Trials = 8;
    private const int Steps = 5;

    public static int Run(string[] args)
    {
        if (args.Length < 1)
        {
            Console.Error.WriteLine("usage: sweep-cpu MODEL_FOLDER [float32|bfloat16] [ROWSxLENGTH...]");
            return 2;
        }

        NativeRuntime.EnsureLoaded();
        HostAllocator.KeepBlocks();
        ScalarType dtype = args.Length > 1 && args[1] == "bfloat16" ? ScalarType.BFloat16 : ScalarType.Float32;
        string[] shapes = args.Length > 2 ? args[2..] : ["1x16", "1x64", "4x64"];
        Console.WriteLine($"{dtype}, {Trials} adapters, {get_num_threads()} threads, milliseconds a step (fastest of {Steps - 1})");
        foreach (string shape in shapes)
        {
            int rows = int.Parse(shape.Split('x')[0]), length = int.Parse(shape.Split('x')[1]);
            Measured alone = Measure(args[0], dtype, 1, rows, length, 1), all = Measure(args[0], dtype, Trials, rows, length, Trials), together = Measure(args[0], dtype, Trials, rows, length, 0);
            double floor = Floor(args[0], dtype, Trials * rows * length);
            Console.WriteLine(
                $"{shape} tokens: single {alone.Seconds * 1e3:0}; {Trials} in one pass {Text(all, alone)}; as many as fill a pass {Text(together, alone)}; products alone {floor * 1e3:0}: at most {Trials * alone.Seconds / floor:0.00} x");
        }

        return 0;
    }

    private static string Text(Measured m, Measured alone) => $"{m.Seconds * 1e3:0} ({Trials * alone.Seconds / m.Seconds:0.00} x, {m.Bytes / alone.Bytes:0.00} x the memory of one)";

    private static Measured Measure(string folder, ScalarType dtype, int trials, int rows, int length, int atOnce)
    {
        using var source = ModelSource.OpenFolder(folder);
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), dtype, CPU);
        SweepTrial[] all = [.. Enumerable.Range(0, trials).Select(i => new SweepTrial(
            $"t{i}", new LoraOptions { Rank = 8, Targets = ModuleSelector.Parse(".*(q|v)_proj") }, new TrainerOptions { MaxSteps = Steps }))];
        using var trainer = new SideBySideTrainer(model, adapters, all, new SweepOptions { Steps = Steps, AtOnce = atOnce });
        using var batches = new RandomBatches(model.Config.VocabularySize, rows, length);
        double best = double.MaxValue;
        long before = 0;
        using var memory = new PeakMemory();
        trainer.Run(batches, null, (step, _) =>
        {
            best = step > 1 ? Math.Min(best, Stopwatch.GetElapsedTime(before).TotalSeconds) : best;
            before = Stopwatch.GetTimestamp();
        });
        return new Measured(best, memory.Stop());
    }

    private static double Floor(string folder, ScalarType dtype, long tokens)
    {
        using var source = ModelSource.OpenFolder(folder);
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), dtype, CPU);
        using IDisposable none = no_grad();
        Dictionary<long, Tensor> inputs = model.Linears.SelectMany(l => new[] { l.Spec.InFeatures, l.Spec.OutFeatures }).Distinct().ToDictionary(k => k, k => k > 8192 ? empty(0) : rand([tokens, k]).to(dtype));
        double seconds = Stopwatches.Fastest(
            () =>
            {
                foreach (LinearLayer layer in model.Linears)
                {
                    using Tensor weight = layer.DenseWeight();
                    for (long start = 0; start < tokens; start += layer.Spec.IsOutputHead ? 85 : tokens)
                    {
                        using var scope = NewDisposeScope();
                        Tensor x = inputs[layer.Spec.InFeatures].narrow(0, start, layer.Spec.IsOutputHead ? Math.Min(85, tokens - start) : tokens);
                        Tensor y = nn.functional.linear(x, weight);
                        _ = y.mm(weight);
                    }
                }
            },
            budget: 3);
        foreach (Tensor input in inputs.Values)
        {
            input.Dispose();
        }

        return seconds;
    }

    private sealed record Measured(double Seconds, double Bytes);

    /// <summary>Looks at the process's resident memory every few milliseconds.</summary>
    private sealed class PeakMemory : IDisposable
    {
        private readonly CancellationTokenSource _stop = new();
        private readonly Thread _watch;
        private long _peak;

        public PeakMemory()
        {
            _watch = new Thread(() =>
            {
                while (!_stop.IsCancellationRequested)
                {
                    _peak = Math.Max(_peak, Environment.WorkingSet);
                    Thread.Sleep(5);
                }
            });
            _watch.Start();
        }

        public double Stop()
        {
            _stop.Cancel();
            _watch.Join();
            return _peak;
        }

        public void Dispose() => _stop.Dispose();
    }
}
