using System.Diagnostics;
using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using LoraSharp.Training;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// LoRA training of a real model on the CPU (4 rows of 128 tokens, every token a target): tokens a second, and what share
/// that is of the matrix products alone at the rate this machine reaches in the same run.
/// </summary>
internal static class TrainCpuBenchmark
{
    private const int Rows = 4, Length = 128, Rank = 8;

    public static int Run(string[] args)
    {
        if (args.Length < 1)
        {
            Console.Error.WriteLine("usage: train-cpu MODEL_FOLDER [steps] [float32|bfloat16] [on|off: gradient checkpointing] [reuse]");
            return 2;
        }

        int steps = args.Length > 1 ? int.Parse(args[1]) : 12;
        ScalarType dtype = args.Length > 2 && args[2] == "bfloat16" ? ScalarType.BFloat16 : ScalarType.Float32;
        GradientCheckpointing recompute = args.Length > 3 && args[3] == "on" ? GradientCheckpointing.On : GradientCheckpointing.Off;
        NativeRuntime.EnsureLoaded();
        if (args.Contains("reuse"))
        {
            HostAllocator.KeepBlocks();
        }
        else
        {
            HostAllocator.ReturnLargeBlocks();
        }

        using var source = ModelSource.OpenFolder(args[0]);
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), dtype, CPU);
        adapters.Create(new LoraOptions { Rank = Rank, Alpha = 2 * Rank }, seed: 1);
        NamedTensor[] trainable = [.. adapters.Trainable];

        double flops = FlopsPerToken(model, trainable);
        TrainerOptions options = new() { MaxSteps = steps, GradientCheckpointing = recompute };
        StepClock clocked = new();
        using var trainer = new Trainer(
            new TrainingSetup
            {
                Objective = new LanguageModelingObjective(model, options),
                Trainable = trainable,
                Batches = new RandomBatches(model.Config.VocabularySize, Rows, Length),
                Observers = [clocked],
            },
            options);
        double before = MatrixRate(dtype);
        trainer.Run();
        double peak = Process.GetCurrentProcess().PeakWorkingSet64 / 1e9;
        double rate = Math.Max(before, MatrixRate(dtype));
        double[] seconds = [.. clocked.Seconds.Skip(2).Order()];
        double median = seconds[seconds.Length / 2], best = seconds[0], processor = clocked.ProcessorSeconds.Skip(2).Min();
        Console.WriteLine($"{Path.GetFileName(args[0])} {dtype}, r = {Rank} on all linear layers, {Rows} x {Length} tokens, {Environment.ProcessorCount} cores, torch threads {get_num_threads()}");
        Console.WriteLine($"matrix products {rate / 1e9:0} GFLOP/s (2048^3); needed per token {flops / 1e6:0} MFLOP (base forward and dX, head, LoRA)");
        Console.WriteLine($"step {best * 1e3:0} ms fastest, {median * 1e3:0} ms median: {Rows * Length / best:0} / {Rows * Length / median:0} tokens/s = {Share(best):0.0} % / {Share(median):0.0} % of the rate");
        if (get_num_threads() == 1)
        {
            double byProcessor = ProcessorRate(dtype);
            // On a busy machine the only honest clock: processor time of the one thread (OMP_NUM_THREADS=1).
            Console.WriteLine($"processor time {processor * 1e3:0} ms a step: {100 * flops * Rows * Length / processor / byProcessor:0.0} % of {byProcessor / 1e9:0} GFLOP/s by the same clock");
        }

        Console.WriteLine($"peak memory {peak:0.00} GB; tensors after each step {string.Join(' ', clocked.Tensors.Distinct())}");
        return 0;

        double Share(double seconds) => 100 * flops * Rows * Length / seconds / rate;
    }

    /// <summary>2 a weight forward, 2 for dX; of the factors also their own gradients, another 2.</summary>
    private static double FlopsPerToken(CausalLanguageModel model, IEnumerable<NamedTensor> trainable) =>
        model.Linears.Sum(l => 4.0 * l.Spec.InFeatures * l.Spec.OutFeatures) + trainable.Sum(t => 6.0 * t.Value.NumberOfElements);

    private static double MatrixRate(ScalarType dtype)
    {
        using Tensor a = rand([2048, 2048]).to(dtype);
        using Tensor b = rand([2048, 2048]).to(dtype);
        double seconds = Stopwatches.Fastest(
            () =>
            {
                using var none = no_grad();
                using Tensor product = a.mm(b);
            },
            budget: 2);
        return 2.0 * 2048 * 2048 * 2048 / seconds;
    }

    private static double ProcessorRate(ScalarType dtype)
    {
        using Tensor a = rand([1024, 1024]).to(dtype);
        using Tensor b = rand([1024, 1024]).to(dtype);
        using var none = no_grad();
        double best = double.MaxValue;
        for (int i = 0; i < 20; i++)
        {
            TimeSpan before = Process.GetCurrentProcess().TotalProcessorTime;
            for (int j = 0; j < 4; j++)
            {
                using Tensor product = a.mm(b);
            }

            best = Math.Min(best, (Process.GetCurrentProcess().TotalProcessorTime - before).TotalSeconds / 4);
        }

        return 2.0 * 1024 * 1024 * 1024 / best;
    }
}
