using System.Diagnostics;
using System.Globalization;
using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// What packing brings on real rows: real tokens a second of LoRA training with rows padded to the window, padded to the
/// longest of their batch, grouped by length, and packed. Each way in turn, several rounds; the fastest round counts.
/// </summary>
internal static class PackingBenchmark
{
    private const int Steps = 4, Rounds = 2;

    public static int Run(string[] args)
    {
        if (args.Length < 2)
        {
            Console.Error.WriteLine("usage: packing MODEL_FOLDER ROWS_FILE [float32|bfloat16] [window]");
            return 2;
        }

        NativeRuntime.EnsureLoaded();
        HostAllocator.ReturnLargeBlocks();
        ScalarType dtype = args.Length > 2 && args[2] == "bfloat16" ? ScalarType.BFloat16 : ScalarType.Float32;
        int window = args.Length > 3 ? int.Parse(args[3], CultureInfo.InvariantCulture) : 512;
        ModelLanguage language = ModelLanguage.Open(args[0]);
        using TrainingData data = TrainingData.Load(
            new DataOptions { Train = [new DataSource { Path = args[1] }], MaxLength = window, MaxSamples = 4000 }, language.Tokenizer, language.ChatTemplate?.Renderer());
        using var source = ModelSource.OpenFolder(args[0]);
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), dtype, CPU);
        adapters.Create(new LoraOptions { Rank = 8, Alpha = 16 }, seed: 1);
        var objective = new LanguageModelingObjective(model, new TrainerOptions { GradientCheckpointing = GradientCheckpointing.Off });
        BatchOptions shape = new() { MaxLength = window, Seed = 1, Epochs = 100 };
        (string Name, BatchOptions Options)[] ways =
        [
            ($"4 rows padded to {window}", shape with { BatchSize = 4, PadToMaxLength = true }),
            ("8 rows padded to their longest", shape with { BatchSize = 8 }),
            ("16 rows padded to their longest", shape with { BatchSize = 16 }),
            ("16 rows of similar length", shape with { BatchSize = 16, GroupByLength = true }),
            ($"2 packed windows of {window}", shape with { BatchSize = 2, Packing = true }),
        ];
        Measured[] best = [.. ways.Select(_ => new Measured(0, 0, 0))];
        for (int round = 0; round < Rounds; round++)
        {
            for (int way = 0; way < ways.Length; way++)
            {
                Measured found = Measure(objective, data, ways[way].Options);
                best[way] = found.TokensPerSecond > best[way].TokensPerSecond ? found : best[way];
            }
        }

        double mean = Enumerable.Range(0, data.Train.Count).Average(i => (double)data.Train.Length(i));
        Console.WriteLine(FormattableString.Invariant($"{Path.GetFileName(args[0])} {dtype}, r = 8 on all linear layers, {data.Train.Count} rows of {mean:0.0} tokens, {get_num_threads()} threads, forward and backward of {Steps} batches, fastest of {Rounds}"));
        Console.WriteLine("| | padding | real tokens/s | packed is |");
        Console.WriteLine("| --- | --- | --- | --- |");
        for (int way = 0; way < ways.Length; way++)
        {
            Console.WriteLine(FormattableString.Invariant($"| {ways[way].Name} | {100 * best[way].Padding:0.0} % | {best[way].TokensPerSecond:0} | {best[^1].TokensPerSecond / best[way].TokensPerSecond:0.00} x |"));
        }

        return 0;
    }

    private static Measured Measure(LanguageModelingObjective objective, TrainingData data, BatchOptions options)
    {
        using var batches = new BatchPlanner(data.Train, options, data.Sources);
        Pass(batches.NextStep());
        MicroBatch[] timed = [.. Enumerable.Range(0, Steps).SelectMany(_ => batches.NextStep())];
        long started = Stopwatch.GetTimestamp();
        Pass(timed);
        double seconds = Stopwatch.GetElapsedTime(started).TotalSeconds;
        long computed = timed.Sum(b => (long)b.Rows * b.Length), real = timed.Sum(b => (long)b.Sequences.Count(s => s > 0));
        return new Measured(real / seconds, 1 - ((double)real / computed), seconds);

        void Pass(IReadOnlyList<MicroBatch> step)
        {
            foreach (MicroBatch batch in step)
            {
                using MicroBatchLoss loss = objective.Backward(batch, objective.Weight(batch), 0);
            }
        }
    }

    private sealed record Measured(double TokensPerSecond, double Padding, double Seconds);
}
