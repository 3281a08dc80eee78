using System.CommandLine;
using System.Net;
using LoraSharp.Formats;
using LoraSharp.Recipes;
using LoraSharp.Server;
using LoraSharp.Server.Training;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Hosting;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora serve</c>.</summary>
internal static class ServeCommand
{
    /// <summary>The command's name; it handles the signals that stop it itself.</summary>
    public const string Name = "serve";

    private const string ApiKeyVariable = "LORASHARP_API_KEY";
    private const string AdminKeyVariable = "LORASHARP_ADMIN_KEY";

    public static Command Create()
    {
        Option<string> model = CommonOptions.Model();
        var adapters = new Option<string[]>("--adapter") { Description = "Adapters by name; several at once or the option several times.", AllowMultipleArgumentsPerToken = true, HelpName = "NAME=PATH", DefaultValueFactory = _ => [] };
        Option<string> dtype = CommonOptions.DType();
        var adapterDType = new Option<string>("--adapter-dtype") { Description = "Type of the adapters' factors: float32, as PEFT has them, or bfloat16, as most servers do: faster when a batch mixes adapters on a CPU.", HelpName = "TYPE", DefaultValueFactory = _ => "float32" };
        adapterDType.AcceptOnlyFromAmong("float32", "bfloat16");
        Option<string> device = CommonOptions.Device();
        Option<string> quantize = CommonOptions.Quantize();
        Option<bool> doubleQuant = CommonOptions.DoubleQuant();
        Option<string?> modelType = CommonOptions.ModelType();
        Option<bool> probe = CommonOptions.Probe();
        Option<bool> strict = CommonOptions.Strict();
        Option<bool> anyBase = CommonOptions.AnyBase();
        ServeOptions flags = new();
        var command = new Command(Name, $"""
            Serve a base model with many adapters over an OpenAI-compatible HTTP API.
            Examples:
              lora serve --model HuggingFaceTB/SmolLM2-135M-Instruct --adapter support=runs/support sql=runs/sql --port 8080
              lora serve --model base.gguf --host 0.0.0.0 --keys keys.yaml --adapter-folder adapters --log-level information
            Keys can be given in the environment too, where no list of processes shows them: {ApiKeyVariable}, {AdminKeyVariable}.
            """)
        {
            model, adapters, dtype, adapterDType, device, quantize, doubleQuant, modelType, probe, strict, anyBase,
        };
        flags.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            (string Name, string Path)[] named = [.. parsed.GetValue(adapters)!.Select(Named)];
            string? twice = named.GroupBy(a => a.Name).FirstOrDefault(g => g.Count() > 1)?.Key;
            if (twice is not null)
            {
                throw new LoraSharpException($"--adapter: the name '{twice}' is given twice.");
            }

            // Everything that can be wrong without the model is told before it is loaded.
            IPAddress address = flags.Address(parsed);
            ServerOptions options = WithEnvironment(flags.Server(parsed, parsed.GetValue(model)!)).Validate();
            IReadOnlyList<(string Name, string Path)> registered = [.. flags.Registered(parsed).ExceptBy(named.Select(a => a.Name), a => a.Name)];
            if (flags.Pinned(parsed).Except(named.Concat(registered).Select(a => a.Name)).FirstOrDefault() is { } unknown)
            {
                throw new LoraSharpException($"--pin '{unknown}': there is no such adapter. Name it with --adapter or --register.");
            }

            if (named.Concat(registered).FirstOrDefault(a => a.Name == options.ModelName).Name is { } taken)
            {
                throw new LoraSharpException($"--adapter: the name '{taken}' is the base model's. Give another one, or --served-model-name.");
            }

            foreach ((_, string path) in named)
            {
                await HubModels.EnsureAsync(path, cancellation);
            }

            double share = flags.TrainShare(parsed);
            Recipe? recipe = flags.Train(parsed) is { } recipePath ? RecipeReader.Read(recipePath) : null;
            using LoadedModel loaded = EngineSetup.Load(new EngineOptions
            {
                Model = parsed.GetValue(model)!,
                DType = parsed.GetValue(dtype)!,
                RoundFactors = parsed.GetValue(adapterDType) == "bfloat16",
                Device = parsed.GetValue(device)!,
                Quantize = parsed.GetValue(quantize)!,
                DoubleQuantization = parsed.GetValue(doubleQuant),
                ModelType = parsed.GetValue(modelType),
                AcceptOtherBases = parsed.GetValue(anyBase),
            });
            var vetting = new AdapterVetting(parsed.GetValue(probe), parsed.GetValue(strict));
            Array.ForEach(named, a => vetting.Try(loaded, a.Name, a.Path));
            vetting.Settle();
            using InferenceEngine engine = loaded.CreateEngine(flags.Limits(parsed), Console.Error.WriteLine);
            foreach ((string adapter, string path) in named)
            {
                // At the start everything must be there and fit: better no server than one that fails later.
                _ = await engine.LoadAsync(adapter, path);
            }

            foreach ((string adapter, string path) in registered)
            {
                await engine.RegisterAsync(adapter, path);
            }

            foreach (string adapter in flags.Pinned(parsed))
            {
                await engine.PinAsync(adapter);
                _ = await engine.WarmAsync(adapter);
            }

            if (flags.Merge(parsed) is { } merged)
            {
                _ = await engine.MergeAsync(merged);
            }

            var desk = new TrainingDesk(engine, loaded);
            var served = new ServedModel(engine, loaded.TokenizerOrNull, loaded.ChatTemplateOrNull, loaded.Generation) { Training = desk };
            await using WebApplication app = LoraServer.Create(served, options, address, flags.Port(parsed), logging => flags.Log(parsed, logging));
            await app.StartAsync(cancellation);
            Console.WriteLine($"Serving {options.ModelName}{(named.Length > 0 ? $" with {string.Join(", ", named.Select(a => a.Name))}" : "")}{(registered.Count > 0 ? $" and {registered.Count} more adapters" : "")} at {string.Join(" ", app.Urls)}");
            Tell(options, address);
            Task training = recipe is null ? Task.CompletedTask : TrainAsync(desk, recipe, Path.GetDirectoryName(Path.GetFullPath(flags.Train(parsed)!)), share);
            await app.WaitForShutdownAsync(cancellation);
            await desk.StopAsync();
            await training;
            return 0;
        });
        return command;
    }

    // What goes wrong with it is told; the server goes on.
    private static async Task TrainAsync(TrainingDesk desk, Recipe recipe, string? folder, double share)
    {
        string name = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(recipe.Output)));
        TrainingJob job = desk.Start(recipe, name, share, folder, note => Console.Error.WriteLine($"train: {note}"));
        await job.Ended;
        if (job.State == TrainingState.Failed)
        {
            Console.Error.WriteLine($"error: training of {name} ended: {job.Error!.Message}");
            return;
        }

        Console.WriteLine(job is { State: TrainingState.Completed, Result.Training: { } done } ? $"Trained {name} ({done.Steps} steps, loss {done.Loss:0.####}); it is served." : $"Training of {name} stopped after step {job.Step}; the same command goes on from there.");
    }

    private static ServerOptions WithEnvironment(ServerOptions options) => options with
    {
        ApiKeys = options.ApiKeys.Count == 0 && Environment.GetEnvironmentVariable(ApiKeyVariable) is { Length: > 0 } key ? [key] : options.ApiKeys,
        AdminKey = options.AdminKey ?? (Environment.GetEnvironmentVariable(AdminKeyVariable) is { Length: > 0 } admin ? admin : null),
    };

    private static void Tell(ServerOptions options, IPAddress address)
    {
        if (options.Playground)
        {
            Console.WriteLine("The address opens a page to try them out.");
        }

        if (!IPAddress.IsLoopback(address) && options.ApiKeys.Count == 0 && options.KeysFile is null)
        {
            Console.Error.WriteLine("warning: others on the network can use this server, and no key is asked for. Give --api-key or --keys.");
        }
    }

    private static (string Name, string Path) Named(string text)
    {
        int equals = text.IndexOf('=');
        return equals > 0 && equals < text.Length - 1
            ? (text[..equals], text[(equals + 1)..])
            : throw new LoraSharpException($"--adapter '{text}': expected NAME=PATH. Example: --adapter support=runs/support");
    }
}
