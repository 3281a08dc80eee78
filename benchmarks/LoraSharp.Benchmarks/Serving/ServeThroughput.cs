using System.Diagnostics;
using LoraSharp.Adapters;
using LoraSharp.Formats.Peft;
using LoraSharp.Inference;
using LoraSharp.Serving;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>
/// Tokens a second of the engine without HTTP: one request and eight, on the base and over eight adapters, with eight and
/// with a thousand registered.
/// </summary>
internal static class ServeThroughput
{
    private const int Prompt = 16;
    private const int Answer = 64;
    private const int Side = 8;
    private const int Rounds = 6;

    public static async Task<int> RunAsync(string[] arguments)
    {
        string dtype = arguments.ElementAtOrDefault(1) ?? "bfloat16";
        int rank = arguments.ElementAtOrDefault(2) is { } given ? int.Parse(given, System.Globalization.CultureInfo.InvariantCulture) : 8;
        bool rounded = arguments.ElementAtOrDefault(3) == "bfloat16";
        string work = Directory.CreateTempSubdirectory("serve-throughput").FullName;
        try
        {
            using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = arguments[0], DType = dtype, RoundFactors = rounded, Device = "cpu" });
            MakeAdapters(loaded, rank, work);
            Console.WriteLine($"{arguments[0]}, {dtype}, {Side} adapters of rank {rank} on every linear layer, factors {(rounded ? "bfloat16" : "float32")}; {Environment.ProcessorCount} processors; {Prompt} + {Answer} tokens a request, best of {Rounds} rounds that take turns");
            using InferenceEngine engine = loaded.CreateEngine(new EngineLimits { PrefixCache = false });
            await RegisterAsync(engine, work, 0, Side);
            string?[] mix = [.. Enumerable.Range(0, Side).Select(i => $"a{i}")];
            double[] few = await MeasureAsync(engine, [null], new string?[Side], ["a0"], mix);
            await RegisterAsync(engine, work, Side, 1000);
            double[] many = await MeasureAsync(engine, new string?[Side], mix);
            Console.WriteLine($"1 request on the base                    {few[0],7:F1} tokens/s");
            Console.WriteLine($"8 requests on the base                   {few[1],7:F1} tokens/s = {few[1] / few[0]:F2} x one");
            Console.WriteLine($"1 request on an adapter                  {few[2],7:F1} tokens/s = {few[2] / few[0]:P0} of the base");
            Console.WriteLine($"8 requests over 8 adapters               {few[3],7:F1} tokens/s = {few[3] / few[1]:P0} of the base");
            Console.WriteLine($"with 1,000 adapters registered: the base {many[0],7:F1} tokens/s");
            Console.WriteLine($"8 requests over 8 adapters               {many[1],7:F1} tokens/s = {many[1] / many[0]:P0} of the base, {many[1] / few[3]:P0} of 8 registered");
            return 0;
        }
        finally
        {
            Directory.Delete(work, recursive: true);
        }
    }

    private static void MakeAdapters(LoadedModel loaded, int rank, string folder)
    {
        for (int i = 0; i < Side; i++)
        {
            LoraAdapter adapter = loaded.Adapters.Create(new LoraOptions { Rank = rank, Alpha = 2 * rank, Targets = ModuleSelector.Parse("all-linear") }, i, "made");
            using (no_grad())
            {
                foreach (AdapterModule module in adapter.Modules.Values)
                {
                    module.B!.normal_(0, 0.01);
                }
            }

            AdapterWriter.Write(adapter, Path.Combine(folder, $"a{i}"));
            loaded.Adapters.Remove("made");
        }
    }

    private static async Task RegisterAsync(InferenceEngine engine, string folder, int from, int to)
    {
        for (int i = from; i < to; i++)
        {
            await engine.RegisterAsync($"a{i}", Path.Combine(folder, $"a{i % Side}"));
        }
    }

    // A shared machine gives more at one moment than at the next: whoever is compared takes turns.
    private static async Task<double[]> MeasureAsync(InferenceEngine engine, params string?[][] loads)
    {
        double[] best = new double[loads.Length];
        for (int run = 0; run <= Rounds; run++)
        {
            for (int i = 0; i < loads.Length; i++)
            {
                var random = new Random(run);
                (int Tokens, long First, long Last)[] all = await Task.WhenAll(loads[i].Select(a => AskAsync(engine, a, random.Next())));
                long from = all.Max(r => r.First), to = all.Max(r => r.Last);

                // What all of them generated after the last of them had begun; the first round loads the adapters and compiles.
                best[i] = run == 0 ? 0 : Math.Max(best[i], loads[i].Length * (Answer - 1) / Stopwatch.GetElapsedTime(from, to).TotalSeconds);
            }
        }

        return best;
    }

    private static async Task<(int Tokens, long First, long Last)> AskAsync(InferenceEngine engine, string? adapter, int seed)
    {
        var random = new Random(seed);
        var request = new InferenceRequest
        {
            Adapter = adapter,
            Prompt = [.. Enumerable.Range(0, Prompt).Select(_ => random.Next(1000, 40000))],
            Options = new GenerationOptions { MaxTokens = Answer, IgnoreEos = true },
        };
        int tokens = 0;
        long first = 0;
        await foreach (TokenUpdate _ in engine.GenerateAsync(request))
        {
            first = first == 0 ? Stopwatch.GetTimestamp() : first;
            tokens++;
        }

        return (tokens, first, Stopwatch.GetTimestamp());
    }
}
