using System.CommandLine;
using LoraSharp.Recipes;
using LoraSharp.Training;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora train</c>: a recipe file, flags, or both.</summary>
internal static class TrainCommand
{
    // The usual settings as flags of their own; every other one is reached by --set. Name, key of the recipe.
    private static readonly (string Flag, string Key, string Value)[] Flags =
    [
        ("--model", "model", "MODEL"), ("--method", "method", "lora|qlora|full"), ("--data", "data.train", "PATH"), ("--validation", "data.validation", "SHARE|N|PATH"),
        ("--output", "output", "DIR"), ("--rank", "adapter.rank", "R"), ("--alpha", "adapter.alpha", "A"), ("--dropout", "adapter.dropout", "P"),
        ("--targets", "adapter.targets", "NAMES"), ("--init-from", "adapter.init_from", "DIR"), ("--epochs", "training.epochs", "N"), ("--max-steps", "training.max_steps", "N"),
        ("--batch-size", "training.batch_size", "N"), ("--gradient-accumulation", "training.gradient_accumulation", "N"), ("--learning-rate", "training.learning_rate", "LR"),
        ("--schedule", "training.schedule", "NAME"), ("--warmup-steps", "training.warmup_steps", "N"), ("--weight-decay", "training.weight_decay", "W"),
        ("--max-length", "data.max_length", "N"), ("--format", "data.format", "NAME"), ("--seed", "training.seed", "N"),
        ("--dtype", "dtype", "TYPE"), ("--device", "device", "DEVICE"), ("--model-type", "model_type", "NAME"),
    ];

    // Flags without a value.
    private static readonly (string Flag, string Key, string Setting)[] Switches =
    [
        ("--rslora", "adapter.rslora", "true"), ("--dora", "adapter.dora", "true"), ("--packing", "data.packing", "true"), (NoShuffle, "data.shuffle", "false"),
        ("--double-quant", "quantization.double", "true"), ("--overwrite", "overwrite", "true"), ("--strict", "adapter.strict", "true"), ("--any-base", "adapter.any_base", "true"),
    ];

    private const string NoShuffle = "--no-shuffle";

    public static Command Create()
    {
        var recipe = new Argument<string?>("recipe") { Description = "Recipe in YAML (docs/recipe.md lists every key); optional when flags say everything.", Arity = ArgumentArity.ZeroOrOne, HelpName = "RECIPE.yaml" };
        Option<string[]> set = CommonOptions.Set();
        var quantize = new Option<string?>("--quantize") { Description = "nf4: the same as --method qlora.", HelpName = "TYPE" };
        quantize.AcceptOnlyFromAmong("nf4", "fp4", "none");
        Option<bool> json = CommonOptions.Json();
        Option<string?> telemetry = TelemetryExport.Endpoint();
        var command = new Command("train", "Fine-tune a model: LoRA, QLoRA or in full.\nExample: lora train recipe.yaml --set training.epochs=1\n         lora train --model HuggingFaceTB/SmolLM2-135M-Instruct --data train.jsonl --output runs/mine --rank 8") { recipe, set, quantize, telemetry, json };
        Dictionary<string, string> descriptions = RecipeDocumentation.Settings().ToDictionary(s => s.Key, s => s.Description);
        var options = new List<(Option<string?> Option, string Key)>();
        foreach ((string flag, string key, string value) in Flags)
        {
            var option = new Option<string?>(flag) { Description = descriptions[key], HelpName = value };
            options.Add((option, key));
            command.Add(option);
        }

        var switches = new List<(Option<bool> Option, string Key, string Setting)>();
        foreach ((string flag, string key, string setting) in Switches)
        {
            var option = new Option<bool>(flag) { Description = flag == NoShuffle ? "Take the rows in the order of the file." : descriptions[key] };
            switches.Add((option, key, setting));
            command.Add(option);
        }

        command.SetAction(async (parsed, cancellation) =>
        {
            var settings = new List<KeyValuePair<string, string>>();
            foreach ((Option<string?> option, string key) in options)
            {
                if (parsed.GetValue(option) is { } value)
                {
                    // A list of names may be written with commas.
                    settings.Add(new(key, key == "adapter.targets" && value.Contains(',') && value[0] != '[' ? $"[{value}]" : value));
                }
            }

            settings.AddRange(switches.Where(s => parsed.GetValue(s.Option)).Select(s => new KeyValuePair<string, string>(s.Key, s.Setting)));
            if (parsed.GetValue(quantize) is { } type and not "none")
            {
                settings.Add(new("method", "qlora"));
                settings.Add(new("quantization.type", type));
            }

            settings.AddRange(CommonOptions.Settings(parsed.GetValue(set)!));
            using TelemetryExport? export = TelemetryExport.Start(parsed.GetValue(telemetry), TrainingTelemetry.SourceName);
            return await RunAsync(parsed.GetValue(recipe), settings, parsed.GetValue(json), cancellation);
        });
        return command;
    }

    private static async Task<int> RunAsync(string? path, IReadOnlyList<KeyValuePair<string, string>> settings, bool json, CancellationToken cancellation)
    {
        Recipe recipe = RecipeReader.Read(path, settings);
        if (path is null || !Path.Exists(Path.Combine(Path.GetDirectoryName(Path.GetFullPath(path))!, recipe.Model)))
        {
            await HubModels.EnsureAsync(recipe.Model, cancellation);
        }

        using var progress = new TrainingProgress(json ? TextWriter.Null : Console.Out, !json && !Console.IsOutputRedirected);
        FineTuneResult result = new FineTuneRun(recipe, path is null ? null : Path.GetDirectoryName(Path.GetFullPath(path)))
            .Execute([progress], note => Console.Error.WriteLine($"note: {note}"), cancellation);
        progress.Dispose();
        if (json)
        {
            CommandJson.Write(new
            {
                Output = result.Folder,
                result.Complete,
                result.Training.Steps,
                result.TrainedParameters,
                result.PeakMemory,
                result.Training.Loss,
                result.Training.EvalLoss,
                result.Training.BestLoss,
                result.Training.BestStep,
            });
        }
        else if (result.Complete)
        {
            Console.WriteLine($"Written: {result.Folder}");
            Console.WriteLine($"Try it: {TrainedModelUse.Command(recipe, ModelFromHere(recipe, path), result.Formats.Contains("chat"))}");
        }

        return result.Complete ? 0 : 1;
    }

    // A recipe's model may lie beside the recipe.
    private static string ModelFromHere(Recipe recipe, string? path)
    {
        string beside = Path.Combine(Path.GetDirectoryName(path) ?? string.Empty, recipe.Model);
        return Path.Exists(beside) ? beside : recipe.Model;
    }
}
