using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Decoding one sequence on the CPU from weights in fewer bits, and llama.cpp on the same files where node-llama-cpp is at
/// hand (LORASHARP_LLAMA_CPP, see tests/llama-cpp). The candidates take turns, so that a busy minute hits all of them.
/// </summary>
internal static class QuantizedDecodeBenchmark
{
    private const int Tokens = 64, Rounds = 4;

    public static void Run(string folder, IReadOnlyList<string> files)
    {
        List<Candidate> candidates =
        [
            new("bfloat16", new EngineOptions { Model = folder, DType = "bfloat16", Device = "cpu" }),
            new("NF4, doubly quantised, computed in bfloat16", new EngineOptions { Model = folder, DType = "bfloat16", Quantize = "nf4", DoubleQuantization = true, Device = "cpu" }),
            new("NF4, doubly quantised, computed in float32", new EngineOptions { Model = folder, Quantize = "nf4", DoubleQuantization = true, Device = "cpu" }),
        ];
        foreach (string file in files)
        {
            string name = Path.GetFileNameWithoutExtension(file);
            candidates.Add(new($"{name}, computed in bfloat16", new EngineOptions { Model = file, DType = "bfloat16", Device = "cpu" }));
            candidates.Add(new($"{name}, computed in float32", new EngineOptions { Model = file, Device = "cpu" }));
        }

        var llama = files.ToDictionary(f => f, _ => 0.0);
        try
        {
            for (int round = 0; round < Rounds; round++)
            {
                foreach (Candidate candidate in candidates)
                {
                    candidate.Best = Math.Max(candidate.Best, 1 / Decode(candidate.Loaded));
                }

                foreach (string file in files)
                {
                    llama[file] = Math.Max(llama[file], LlamaCpp(file) ?? 0);
                }
            }

            Console.WriteLine($"{get_num_threads()} threads, {Tokens} tokens, best of {Rounds}");
            Console.WriteLine("| base | MB read a token | tokens/s | times bfloat16 |");
            Console.WriteLine("| --- | --- | --- | --- |");
            foreach (Candidate candidate in candidates)
            {
                Console.WriteLine(FormattableString.Invariant($"| {candidate.Name} | {Bytes(candidate.Loaded) / 1e6:F0} | {candidate.Best:F1} | {candidate.Best / candidates[0].Best:F2} |"));
            }

            foreach ((string file, double rate) in llama)
            {
                Console.WriteLine(rate == 0 ? "| llama.cpp: not at hand | | | |" : FormattableString.Invariant($"| llama.cpp, {Path.GetFileNameWithoutExtension(file)} | | {rate:F1} | {rate / candidates[0].Best:F2} |"));
            }
        }
        finally
        {
            candidates.ForEach(c => c.Dispose());
        }
    }

    // Seconds a token.
    private static double Decode(LoadedModel loaded)
    {
        using var none = no_grad();
        using var cache = new KeyValueCache(loaded.Model.LayerCount, null, 128);
        int token = 1;
        long start = 0;
        for (int i = 0; i < Tokens + 4; i++)
        {
            start = i == 4 ? Stopwatch.GetTimestamp() : start;
            using var scope = NewDisposeScope();
            Tensor logits = loaded.Model.Forward(tensor(new long[] { token }).unsqueeze(0), tensor(new long[] { i }).unsqueeze(0), cache);
            token = (int)logits.argmax().item<long>();
        }

        return Stopwatch.GetElapsedTime(start).TotalSeconds / Tokens;
    }

    // Linear layers and what is not a table: of that one row is read. A tied head counts as the layer it is.
    private static long Bytes(LoadedModel loaded)
    {
        var seen = new HashSet<nint>();
        return loaded.Model.Linears.SelectMany(l => l.Parameters).Where(p => seen.Add(AtenTensor.DataPointer(p.Value))).Sum(p => p.Value.NumberOfElements * p.Value.ElementSize);
    }

    private static double? LlamaCpp(string file)
    {
        if (Environment.GetEnvironmentVariable("LORASHARP_LLAMA_CPP") is not { Length: > 0 } folder)
        {
            return null;
        }

        var start = new ProcessStartInfo("node") { RedirectStandardOutput = true, WorkingDirectory = folder };
        start.ArgumentList.Add("speed.mjs");
        start.ArgumentList.Add(JsonSerializer.Serialize(new { model = Path.GetFullPath(file), threads = get_num_threads(), tokens = Tokens, repeats = 1 }));
        using Process process = Process.Start(start)!;
        string line = process.StandardOutput.ReadToEnd().Split('\n').Last(l => l.StartsWith('{'));
        process.WaitForExit();
        return (double)JsonNode.Parse(line)!["tokensPerSecond"]!;
    }

    private sealed class Candidate(string name, EngineOptions options) : IDisposable
    {
        private LoadedModel? _loaded;

        public string Name { get; } = name;

        public double Best { get; set; }

        public LoadedModel Loaded => _loaded ??= EngineSetup.Load(options);

        public void Dispose() => _loaded?.Dispose();
    }
}
