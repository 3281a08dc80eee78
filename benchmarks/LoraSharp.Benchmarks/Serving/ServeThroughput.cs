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

    public static async Task<int> RunAsync(string[] arguments)
    {
        string dtype = arguments.ElementAtOrDefault(1) ?? "bfloat16";
        int rank = arguments.ElementAtOrDefault(2) is { } given ? int.Parse(given, System.Globalization.CultureInfo.InvariantCulture) : 8;
        string work = Directory.CreateTempSubdirectory("serve-throughput").FullName;
        try
        {
            using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = arguments[0], DType = dtype, Device = "cpu" });
            MakeAdapters(loaded, rank, work);
            Console.WriteLine($"{arguments[0]}, {dtype}, {Side} adapters of rank {rank} on every linear layer; {Environment.ProcessorCount} processors; {Prompt} + {Answer} tokens a request, best of 3");
            double one = await MeasureAsync(loaded, work, Side, [null]);
            double eight = await MeasureAsync(loaded, work, Side, new string?[Side]);
            double single = await MeasureAsync(loaded, work, Side, ["a0"]);
            double mixed = await MeasureAsync(loaded, work, Side, [.. Enumerable.Range(0, Side).Select(i => $"a{i}")]);
            double thousand = await MeasureAsync(loaded, work, 1000, [.. Enumerable.Range(0, Side).Select(i => $"a{i}")]);
            Console.WriteLine($"1 request on the base                    {one,7:F1} tokens/s");
            Console.WriteLine($"8 requests on the base                   {eight,7:F1} tokens/s = {eight / one:F2} x one");
            Console.WriteLine($"1 request on an adapter                  {single,7:F1} tokens/s = {single / one:P0} of the base");
            Console.WriteLine($"8 requests over 8 adapters               {mixed,7:F1} tokens/s = {mixed / eight:P0} of the base");
            Console.WriteLine($"the same with 1,000 adapters registered  {thousand,7:F1} tokens/s = {thousand / mixed:P0} of 8 registered");
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

    private static async Task<double> MeasureAsync(LoadedModel loaded, string folder, int registered, string?[] adapters)
    {
        using InferenceEngine engine = loaded.CreateEngine(new EngineLimits { PrefixCache = false });
        for (int i = 0; i < registered; i++)
        {
            await engine.RegisterAsync($"a{i}", Path.Combine(folder, $"a{i % Side}"));
        }

        double best = 0;
        for (int run = 0; run < 4; run++)
        {
            // The first loads the adapters and compiles.
            var random = new Random(run);
            (int Tokens, long First, long Last)[] all = await Task.WhenAll(adapters.Select(a => AskAsync(engine, a, random.Next())));
            long from = all.Max(r => r.First), to = all.Max(r => r.Last);

            // What all of them generated after the last of them had begun.
            best = run == 0 ? 0 : Math.Max(best, adapters.Length * (Answer - 1) / Stopwatch.GetElapsedTime(from, to).TotalSeconds);
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
