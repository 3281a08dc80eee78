using System.CommandLine;
using System.Diagnostics;
using LoraSharp.Benchmarks.Serving;
using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Benchmarks;

/// <summary>
/// <c>serve-batch MODEL</c>: so many sequences of the same length at once through the engine, in process: what a batch gains
/// over one, what adapters cost, what registered ones cost. <c>benchmarks/llama-cpp/batch.mjs</c> asks the same of llama.cpp.
/// </summary>
internal static class ServeBatch
{
    public static Command Create()
    {
        var model = new Argument<string>("model");
        var dtype = new Option<string>("--dtype") { DefaultValueFactory = _ => "bfloat16" };
        var quantize = new Option<string>("--quantize") { Description = "none, q8 or nf4.", DefaultValueFactory = _ => "none" };
        var parallel = new Option<int[]>("--parallel") { AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [1, 8] };
        var prompt = new Option<int>("--prompt") { DefaultValueFactory = _ => 32 };
        var tokens = new Option<int>("--tokens") { DefaultValueFactory = _ => 64 };
        var adapters = new Option<int>("--adapters") { Description = "So many random adapters of rank 8; each sequence has another." };
        var registered = new Option<int>("--registered") { Description = "So many more names that nobody asks for." };
        var rounds = new Option<int>("--rounds") { Description = "The fastest counts.", DefaultValueFactory = _ => 3 };
        var command = new Command("serve-batch", "Sequences of one length side by side.") { model, dtype, quantize, parallel, prompt, tokens, adapters, registered, rounds };
        command.SetAction(async (parsed, cancellation) =>
        {
            string folder = Directory.CreateTempSubdirectory("lora-batch-").FullName;
            try
            {
                using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = parsed.GetValue(model)!, DType = parsed.GetValue(dtype)!, Quantize = parsed.GetValue(quantize)!, Device = "cpu" });
                IReadOnlyList<(string Name, string Path)> written = BenchServer.WriteAdapters(loaded, folder, [.. Enumerable.Repeat(8, parsed.GetValue(adapters))], seed: 1);
                using InferenceEngine engine = loaded.CreateEngine(new EngineLimits { MaxBatch = parsed.GetValue(parallel)!.Max(), MaxLoadedAdapters = Math.Max(8, written.Count) });
                foreach ((string name, string path) in written)
                {
                    await engine.LoadAsync(name, path);
                }

                for (int i = 0; i < parsed.GetValue(registered); i++)
                {
                    await engine.RegisterAsync($"idle-{i:D4}", written.Count > 0 ? written[0].Path : folder);
                }

                foreach (int count in parsed.GetValue(parallel)!)
                {
                    Figures best = new(double.MaxValue, double.MaxValue);
                    for (int round = 0; round <= parsed.GetValue(rounds); round++)
                    {
                        Figures figures = await RoundAsync(engine, written, count, parsed.GetValue(prompt), parsed.GetValue(tokens), round, cancellation);

                        // The first round compiles and finds its buffers.
                        best = round > 0 && figures.Whole < best.Whole ? figures : best;
                    }

                    long generated = (long)count * parsed.GetValue(tokens);
                    Console.WriteLine(FormattableString.Invariant(
                        $$"""{"parallel": {{count}}, "adapters": {{Math.Min(count, written.Count)}}, "tokens_per_second": {{generated / best.Whole:F1}}, "decode_tokens_per_second": {{(generated - count) / (best.Whole - best.Prefill):F1}}, "prompt_tokens_per_second": {{(long)count * parsed.GetValue(prompt) / best.Prefill:F1}}, "first_token_ms": {{best.Prefill * 1e3:F0}}}"""));
                }

                return 0;
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        });
        return command;
    }

    // Prefill ends when the last sequence has its first token.
    private static async Task<Figures> RoundAsync(InferenceEngine engine, IReadOnlyList<(string Name, string Path)> adapters, int count, int prompt, int tokens, int round, CancellationToken cancellation)
    {
        long start = Stopwatch.GetTimestamp();
        double[] first = await Task.WhenAll(Enumerable.Range(0, count).Select(async i =>
        {
            double at = 0;
            var request = new InferenceRequest
            {
                // Other prompts each round: a cache of prefixes has no part in this.
                Prompt = Prompt((round * 100) + i, prompt),
                Adapter = adapters.Count > 0 ? adapters[i % adapters.Count].Name : null,
                Options = new GenerationOptions { MaxTokens = tokens, IgnoreEos = true },
            };
            await foreach (TokenUpdate update in engine.GenerateAsync(request, cancellation))
            {
                at = at == 0 ? Stopwatch.GetElapsedTime(start).TotalSeconds : at;
            }

            return at;
        }));
        return new Figures(first.Max(), Stopwatch.GetElapsedTime(start).TotalSeconds);
    }

    // The same ids as in batch.mjs.
    private static int[] Prompt(int sequence, int length) => [.. Enumerable.Range(0, length).Select(i => 3 + (int)((((sequence + 1) * 7919L) + (i * 104_729L)) % 997))];

    private readonly record struct Figures(double Prefill, double Whole);
}
