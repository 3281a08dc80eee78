using System.Diagnostics;
using LoraSharp.Adapters;
using LoraSharp.Adapters.Analysis;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// What variants of adapters cost in a training pass (forward and backward of a real model, everything a target), and
/// how long explaining a large adapter takes.
/// </summary>
internal static class AdapterBenchmark
{
    private const int Rows = 2, Length = 128, Rank = 8;

    public static int Run(string[] args)
    {
        if (args.Length < 1)
        {
            Console.Error.WriteLine("usage: adapters MODEL_FOLDER [rounds]");
            return 2;
        }

        int rounds = args.Length > 1 ? int.Parse(args[1]) : 4;
        NativeRuntime.EnsureLoaded();
        using var source = ModelSource.OpenFolder(args[0]);
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        (string Name, LoraOptions Options)[] variants =
        [
            // One trained row of the embedding: all of the base's forward and dX, and nothing else.
            ("base alone", new() { Targets = null, TrainableTokens = new Dictionary<string, IReadOnlyList<long>> { ["embed_tokens"] = [0] } }),
            ("LoRA", new() { Rank = Rank }),
            ("DoRA", new() { Rank = Rank, UseDora = true }),
            ("LoRA, dropout 0.1", new() { Rank = Rank, Dropout = 0.1 }),
            ("PiSSA", new() { Rank = Rank, Init = "pissa_niter_2" }),
        ];
        foreach ((string name, LoraOptions options) in variants)
        {
            adapters.Create(options, seed: 1, name);
        }

        adapters.Training = true;
        var seconds = variants.ToDictionary(v => v.Name, _ => double.MaxValue);
        using Tensor ids = randint(model.Config.VocabularySize, [Rows, Length], ScalarType.Int64);
        using Tensor positions = arange(Length, ScalarType.Int64).unsqueeze(0);
        // In turn, so that a busy machine is equally unfair to all of them; with one thread by its own clock.
        for (int round = 0; round <= rounds; round++)
        {
            foreach ((string name, _) in variants)
            {
                adapters.Select(name);
                double taken = Pass(model, adapters[name], ids, positions);
                seconds[name] = round == 0 ? double.MaxValue : Math.Min(seconds[name], taken);
            }
        }

        string clock = get_num_threads() == 1 ? "processor time, one thread" : $"wall time, {get_num_threads()} threads";
        Console.WriteLine($"{Path.GetFileName(args[0])}, r = {Rank} on all linear layers, {Rows} x {Length} tokens, forward and backward ({clock}, fastest of {rounds})");
        foreach ((string name, double taken) in seconds)
        {
            Console.WriteLine($"  {name,-18} {taken * 1e3,7:0} ms  {taken / seconds["LoRA"]:0.00} x LoRA");
        }

        Inspect();
        return 0;
    }

    private static double Pass(CausalLanguageModel model, LoraAdapter adapter, Tensor ids, Tensor positions)
    {
        foreach (NamedTensor tensor in adapter.Tensors)
        {
            tensor.Value.grad = null;
        }

        long start = Stopwatch.GetTimestamp();
        TimeSpan processor = Process.GetCurrentProcess().TotalProcessorTime;
        using (var scope = NewDisposeScope())
        {
            using var attention = new PaddedAttention();
            using DecoderPass pass = model.Begin(positions, attention);
            Tensor x = model.Embed(ids, pass);
            for (int i = 0; i < model.LayerCount; i++)
            {
                x = model.RunLayer(i, x, pass);
            }

            model.Normalize(x).square().mean().backward();
        }

        return get_num_threads() == 1
            ? (Process.GetCurrentProcess().TotalProcessorTime - processor).TotalSeconds
            : Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    // An adapter of Llama-3-8B's shape on all linear layers.
    private static void Inspect()
    {
        string folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;
        try
        {
            using var scope = NewDisposeScope();
            (string Name, long K, long F)[] shapes =
            [
                ("self_attn.q_proj", 4096, 4096), ("self_attn.k_proj", 4096, 1024), ("self_attn.v_proj", 4096, 1024), ("self_attn.o_proj", 4096, 4096),
                ("mlp.gate_proj", 4096, 14336), ("mlp.up_proj", 4096, 14336), ("mlp.down_proj", 14336, 4096),
            ];
            var tensors = new List<(string, Tensor)>();
            for (int layer = 0; layer < 32; layer++)
            {
                foreach ((string name, long k, long f) in shapes)
                {
                    string module = $"model.layers.{layer}.{name}";
                    tensors.Add((AdapterTensor.KeyOf(module, AdapterPart.LoraA), randn(16, k)));
                    tensors.Add((AdapterTensor.KeyOf(module, AdapterPart.LoraB), randn(f, 16)));
                }
            }

            string output = Path.Combine(folder, "adapter");
            AdapterFolderWriter.Write(output, new PeftConfig { Rank = 16, Alpha = 32, TargetModules = ModuleSelector.List(shapes.Select(s => s.Name[(s.Name.IndexOf('.') + 1)..])) }, tensors);
            using AdapterFolder adapter = AdapterFolder.Open(output);
            long start = Stopwatch.GetTimestamp();
            AdapterReport report = AdapterInspector.Inspect(adapter, new InspectOptions { Spectrum = true });
            Console.WriteLine($"  inspect --spectrum of {report.TrainableParameters / 1e6:0.0} M parameters on {report.Modules.Count} matrices of an 8B model (r = 16): {Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s wall");
        }
        finally
        {
            Directory.Delete(folder, true);
        }
    }
}
