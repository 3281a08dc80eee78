using System.CommandLine;
using System.Text.Json.Nodes;
using LoraSharp.Benchmarks.Serving;
using LoraSharp.Serving;

namespace LoraSharp.Benchmarks;

/// <summary>
/// <c>serve-load MODEL|URL</c>: requests to many adapters by a power law, in bursts, of mixed lengths, some of whose clients
/// leave or read slowly; what they saw of the server.
/// </summary>
internal static class ServeLoad
{
    public static Command Create()
    {
        var target = new Argument<string>("target") { Description = "A model, which is served in this process with random adapters, or the address of a running server.", HelpName = "MODEL|URL" };
        var adapters = new Option<int>("--adapters") { Description = "Random adapters (ranks 4, 8, 16, 32 in turn).", DefaultValueFactory = _ => 16 };
        var models = new Option<string[]>("--models") { Description = "With an address: the models to ask, most popular first; default: all it lists.", AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [] };
        var users = new Option<int>("--users") { Description = "So many users that ask again as soon as they have their answer, in place of --rate." };
        var rate = new Option<double>("--rate") { Description = "Requests a second in quiet times.", DefaultValueFactory = _ => 2 };
        var burst = new Option<double>("--burst") { Description = "In a tenth of the time the rate is so many times as high.", DefaultValueFactory = _ => 4 };
        var seconds = new Option<double>("--seconds") { DefaultValueFactory = _ => 60 };
        var exponent = new Option<double>("--exponent") { Description = "Of the power law; 0 for all alike.", DefaultValueFactory = _ => 1 };
        var prompt = new Option<int>("--prompt") { Description = "Median prompt length.", DefaultValueFactory = _ => 64 };
        var answer = new Option<int>("--answer") { Description = "Median answer length.", DefaultValueFactory = _ => 32 };
        var spread = new Option<double>("--longest") { Description = "Longest prompt and answer in medians; 1 for all alike.", DefaultValueFactory = _ => 6 };
        var shared = new Option<int>("--shared") { Description = "Tokens that all prompts to a model begin with.", DefaultValueFactory = _ => 16 };
        var cancelled = new Option<double>("--cancelled") { Description = "Share of clients that leave in between.", DefaultValueFactory = _ => 0.05 };
        var slow = new Option<double>("--slow") { Description = "Share of clients that read slowly.", DefaultValueFactory = _ => 0.05 };
        var seed = new Option<int>("--seed") { DefaultValueFactory = _ => 1 };
        var dtype = new Option<string>("--dtype") { DefaultValueFactory = _ => "float32" };
        var batch = new Option<int>("--max-batch") { DefaultValueFactory = _ => 16 };
        var key = new Option<string?>("--api-key");
        var json = new Option<string?>("--json") { Description = "Write the figures here too." };
        var command = new Command("serve-load", "A load of many adapters on a server.") { target, adapters, models, users, rate, burst, seconds, exponent, prompt, answer, spread, shared, cancelled, slow, seed, dtype, batch, key, json };
        command.SetAction(async (parsed, cancellation) =>
        {
            var profile = new LoadProfile
            {
                Models = [],
                Rate = parsed.GetValue(rate),
                Burst = parsed.GetValue(burst),
                Seconds = parsed.GetValue(seconds),
                Exponent = parsed.GetValue(exponent),
                Prompt = parsed.GetValue(prompt),
                Answer = parsed.GetValue(answer),
                Longest = Math.Max(1, parsed.GetValue(spread)),
                Shared = parsed.GetValue(shared),
                Cancelled = parsed.GetValue(cancelled),
                Slow = parsed.GetValue(slow),
                Seed = parsed.GetValue(seed),
            };
            async Task RunAsync(Uri address, IReadOnlyList<string> asked)
            {
                using var client = new CompletionClient(address, parsed.GetValue(key));
                LoadProfile whole = profile with { Models = asked };
                foreach (string model in asked.Take(4))
                {
                    // What happens once (code compiled, libraries found) is not the load's.
                    await client.AskAsync(model, [5, 6, 7, 8], 4, cancellation: cancellation);
                }

                int many = parsed.GetValue(users);
                LoadSummary summary = many > 0 ? await LoadRun.ClosedAsync(client, whole, many, cancellation) : await LoadRun.OpenAsync(client, whole, cancellation);
                Console.WriteLine(summary.ToText());
                if (parsed.GetValue(json) is { } file)
                {
                    await File.WriteAllTextAsync(file, summary.ToJson(), cancellation);
                }
            }

            if (Uri.TryCreate(parsed.GetValue(target), UriKind.Absolute, out Uri? given) && given.Scheme is "http" or "https")
            {
                await RunAsync(given, parsed.GetValue(models) is { Length: > 0 } named ? named : await ListAsync(given, parsed.GetValue(key), cancellation));
                return 0;
            }

            string folder = Directory.CreateTempSubdirectory("lora-load-").FullName;
            try
            {
                using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = parsed.GetValue(target)!, DType = parsed.GetValue(dtype)!, Device = "cpu" });
                int[] ranks = [.. Enumerable.Range(0, parsed.GetValue(adapters)).Select(i => 4 << (i % 4))];
                IReadOnlyList<(string Name, string Path)> written = BenchServer.WriteAdapters(loaded, folder, ranks, seed: 1);
                await using BenchServer server = await BenchServer.StartAsync(loaded, new EngineLimits { MaxBatch = parsed.GetValue(batch), MaxWaiting = 4096 });
                foreach ((string name, string path) in written)
                {
                    await server.Engine.RegisterAsync(name, path);
                }

                await RunAsync(server.Address, written.Count > 0 ? [.. written.Select(a => a.Name)] : [BenchServer.BaseName]);
                return 0;
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        });
        return command;
    }

    private static async Task<IReadOnlyList<string>> ListAsync(Uri address, string? key, CancellationToken cancellation)
    {
        using var client = new HttpClient { BaseAddress = address };
        client.DefaultRequestHeaders.Authorization = key is null ? null : new("Bearer", key);
        JsonNode models = JsonNode.Parse(await client.GetStringAsync("v1/models", cancellation))!;
        return [.. models["data"]!.AsArray().Select(m => (string)m!["id"]!)];
    }
}
