using System.Diagnostics;
using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Training;
using LoraSharp.Training.Sweeps;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>Eight adapters (r = 8, q and v) side by side against one after the other, at several sizes of a micro-batch.</summary>
internal static class SweepBenchmark
{
    private const int Trials = 8;
    private const int Steps = 3;

    public static int Run(string[] args)
    {
        if (args.Length < 1)
        {
            Console.Error.WriteLine("usage: sweep-cpu MODEL_FOLDER");
            return 2;
        }

        foreach ((int rows, int length) in (ReadOnlySpan<(int, int)>)[(1, 16), (1, 64), (4, 64)])
        {
            double alone = Seconds(args[0], 1, rows, length), together = Seconds(args[0], Trials, rows, length);
            Console.WriteLine($"{rows} x {length} tokens: single {alone * 1e3:0} ms a step, {Trials} side by side {together * 1e3:0} ms: {Trials * alone / together:0.00} times the throughput (processor time, {get_num_threads()} threads)");
        }

        return 0;
    }

    private static double Seconds(string folder, int trials, int rows, int length)
    {
        using var source = ModelSource.OpenFolder(folder);
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        SweepTrial[] all = [.. Enumerable.Range(0, trials).Select(i => new SweepTrial(
            $"t{i}", new LoraOptions { Rank = 8, Targets = ModuleSelector.Parse(".*(q|v)_proj") }, new TrainerOptions { MaxSteps = Steps }))];
        using var trainer = new SideBySideTrainer(model, adapters, all, new SweepOptions { Steps = Steps, AtOnce = Trials });
        using var batches = new RandomBatches(model.Config.VocabularySize, rows, length);
        double best = double.MaxValue;
        TimeSpan before = default;
        trainer.Run(batches, null, (step, _) =>
        {
            TimeSpan now = Process.GetCurrentProcess().TotalProcessorTime;
            best = step > 1 ? Math.Min(best, (now - before).TotalSeconds) : best;
            before = now;
        });
        return best;
    }
}
