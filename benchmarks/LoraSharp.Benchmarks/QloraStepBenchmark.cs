using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using LoraSharp.Training;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Whole optimizer steps of LoRA over a dense base and over the same base in 4 bits (QLoRA), r = 16 on all linear layers.
/// Both models are in memory and take turns of a few steps, so that a busy minute hits both.
/// </summary>
internal static class QloraStepBenchmark
{
    private const int Rounds = 4, StepsPerRound = 3;

    public static void Run(string folder)
    {
        NativeRuntime.EnsureLoaded();
        HostAllocator.ReturnLargeBlocks();
        using var source = ModelSource.OpenFolder(folder);
        Console.WriteLine($"{get_num_threads()} threads, fastest of {Rounds} × {StepsPerRound} steps");
        Console.WriteLine("| type | rows × tokens | LoRA ms | QLoRA ms | ratio |");
        Console.WriteLine("| --- | --- | --- | --- | --- |");
        foreach (ScalarType dtype in (ScalarType[])[ScalarType.BFloat16, ScalarType.Float32])
        {
            foreach ((int rows, int length) in ((int, int)[])[(2, 128), (4, 128), (4, 256)])
            {
                double[] best = [double.MaxValue, double.MaxValue];
                for (int round = 0; round < Rounds; round++)
                {
                    for (int kind = 0; kind < 2; kind++)
                    {
                        best[kind] = Math.Min(best[kind], Fastest(source, dtype, kind == 1, rows, length));
                    }
                }

                Console.WriteLine(FormattableString.Invariant($"| {dtype} | {rows} × {length} | {best[0] * 1e3:F0} | {best[1] * 1e3:F0} | {best[1] / best[0]:F3} |"));
            }
        }
    }

    private static double Fastest(ModelSource source, ScalarType dtype, bool quantize, int rows, int length)
    {
        using var factory = new Nf4LinearFactory(quantize ? new QuantizationOptions() : null, new DenseLinearFactory());
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, factory), dtype, CPU);
        adapters.Create(new LoraOptions { Rank = 16, Alpha = 32 }, seed: 1);
        TrainerOptions options = new() { MaxSteps = StepsPerRound + 1, GradientCheckpointing = GradientCheckpointing.Off };
        var clock = new StepClock();
        using var trainer = new Trainer(
            new TrainingSetup
            {
                Objective = new LanguageModelingObjective(model, options),
                Trainable = [.. adapters.Trainable],
                Batches = new RandomBatches(model.Config.VocabularySize, rows, length),
                Observers = [clock],
            },
            options);
        trainer.Run();
        return clock.Seconds.Skip(1).Min();
    }
}
