using System.CommandLine;
using System.Net;
using LoraSharp.Formats;
using LoraSharp.Server;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Hosting;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora serve</c>.</summary>
internal static class ServeCommand
{
    public static Command Create()
    {
        Option<string> model = CommonOptions.Model();
        var adapters = new Option<string[]>("--adapter") { Description = "Adapters by name; several at once or the option several times.", AllowMultipleArgumentsPerToken = true, HelpName = "NAME=PATH", DefaultValueFactory = _ => [] };
        Option<string> dtype = CommonOptions.DType();
        Option<string> device = CommonOptions.Device();
        Option<string> quantize = CommonOptions.Quantize();
        Option<string?> modelType = CommonOptions.ModelType();
        var port = new Option<int>("--port") { Description = "Port; 0 for any free one.", HelpName = "N", DefaultValueFactory = _ => 8080 };
        var host = new Option<string>("--host") { Description = "Address to listen on; 0.0.0.0 for all.", HelpName = "ADDRESS", DefaultValueFactory = _ => "127.0.0.1" };
        var name = new Option<string?>("--served-model-name") { Description = "What requests call the base; default: as given to --model.", HelpName = "NAME" };
        var keys = new Option<string[]>("--api-key") { Description = "Ask for this key; may be given several times.", HelpName = "KEY", DefaultValueFactory = _ => [] };
        var batch = new Option<int>("--max-batch") { Description = "Sequences computed side by side.", HelpName = "N", DefaultValueFactory = _ => 16 };
        var cache = new Option<long>("--kv-tokens") { Description = "Tokens that all caches may hold together.", HelpName = "N", DefaultValueFactory = _ => 1 << 17 };
        var length = new Option<int>("--max-length") { Description = "Longest sequence; 0 for the model's own limit.", HelpName = "N" };
        var folders = new Option<string[]>("--adapter-folder") { Description = "Let adapters be loaded over HTTP from below this folder only; may be given several times.", HelpName = "DIR", DefaultValueFactory = _ => [] };
        var closed = new Option<bool>("--no-adapter-changes") { Description = "Let no adapter be loaded or unloaded over HTTP." };
        var run = new Option<string?>("--run") { Description = "Draw the curves of this training run's folder on the page; it may be still running.", HelpName = "DIR" };
        var plain = new Option<bool>("--no-playground") { Description = "Serve no page at /." };
        var command = new Command("serve", "Serve a base model with many adapters over an OpenAI-compatible HTTP API.\nExample: lora serve --model SmolLM2-135M --adapter support=runs/support sql=runs/sql --port 8080")
        {
            model, adapters, dtype, device, quantize, modelType, port, host, name, keys, batch, cache, length, folders, closed, run, plain,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            (string Name, string Path)[] named = [.. parsed.GetValue(adapters)!.Select(Named)];
            string? twice = named.GroupBy(a => a.Name).FirstOrDefault(g => g.Count() > 1)?.Key;
            if (twice is not null)
            {
                throw new LoraSharpException($"--adapter: the name '{twice}' is given twice.");
            }

            IPAddress address = IPAddress.TryParse(parsed.GetValue(host), out IPAddress? given) ? given : parsed.GetValue(host) == "localhost" ? IPAddress.Loopback : throw new LoraSharpException($"--host '{parsed.GetValue(host)}': expected an IP address such as 127.0.0.1 or 0.0.0.0.");
            using LoadedModel loaded = EngineSetup.Load(new EngineOptions
            {
                Model = parsed.GetValue(model)!,
                DType = parsed.GetValue(dtype)!,
                Device = parsed.GetValue(device)!,
                Quantize = parsed.GetValue(quantize)!,
                ModelType = parsed.GetValue(modelType),
            });
            var limits = new EngineLimits { MaxBatch = Math.Max(1, parsed.GetValue(batch)), CacheTokens = parsed.GetValue(cache), MaxLength = parsed.GetValue(length) };
            using InferenceEngine engine = loaded.CreateEngine(limits);
            foreach ((string adapter, string path) in named)
            {
                // At the start everything must be there and fit: better no server than one that fails later.
                _ = await engine.LoadAsync(adapter, path);
            }

            var options = new ServerOptions
            {
                ModelName = parsed.GetValue(name) ?? parsed.GetValue(model)!,
                ApiKeys = parsed.GetValue(keys)!,
                AllowAdapterChanges = !parsed.GetValue(closed),
                AdapterFolders = parsed.GetValue(folders)!,
                RunFolder = parsed.GetValue(run),
                Playground = !parsed.GetValue(plain),
            };
            await using WebApplication app = LoraServer.Create(new ServedModel(engine, loaded.TokenizerOrNull, loaded.ChatTemplateOrNull, loaded.Generation), options, address, parsed.GetValue(port));
            await app.StartAsync(cancellation);
            Console.WriteLine($"Serving {options.ModelName}{(named.Length > 0 ? $" with {string.Join(", ", named.Select(a => a.Name))}" : "")} at {string.Join(" ", app.Urls)}");
            if (options.Playground)
            {
                Console.WriteLine("The address opens a page to try them out.");
            }

            await app.WaitForShutdownAsync(cancellation);
            return 0;
        });
        return command;
    }

    private static (string Name, string Path) Named(string text)
    {
        int equals = text.IndexOf('=');
        return equals > 0 && equals < text.Length - 1
            ? (text[..equals], text[(equals + 1)..])
            : throw new LoraSharpException($"--adapter '{text}': expected NAME=PATH. Example: --adapter support=runs/support");
    }
}
