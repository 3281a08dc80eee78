using System.CommandLine;
using LoraSharp.Adapters.Combining;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora combine</c>.</summary>
internal static class CombineCommand
{
    public static Command Create()
    {
        var adapters = new Option<string[]>("--adapters") { Description = "Adapters of one base and their weights, any sign; PATH alone weighs 1.", AllowMultipleArgumentsPerToken = true, HelpName = "PATH=WEIGHT", DefaultValueFactory = _ => [] };
        var models = new Option<string[]>("--models") { Description = "Whole models and their weights, instead of adapters.", AllowMultipleArgumentsPerToken = true, HelpName = "MODEL=WEIGHT", DefaultValueFactory = _ => [] };
        var method = new Option<string>("--method") { Description = "Adapters: linear, cat, svd, ties, ties-svd, dare-linear, dare-ties, dare-linear-svd, dare-ties-svd, magnitude-prune, magnitude-prune-svd. Models: linear, slerp, task-arithmetic, ties, dare-linear, dare-ties.", HelpName = "NAME", DefaultValueFactory = _ => "linear" };
        var density = new Option<double?>("--density") { Description = "Share of the entries kept by the methods that prune, 0 to 1.", HelpName = "D" };
        var rank = new Option<int?>("--rank") { Description = "Rank of the result, for the svd methods; the adapters' largest by default.", HelpName = "R" };
        var seed = new Option<long>("--seed") { Description = "Seed of DARE's random pruning.", HelpName = "S", DefaultValueFactory = _ => 0 };
        var sign = new Option<string>("--majority-sign-method") { Description = "How TIES elects signs: total or frequency.", HelpName = "NAME", DefaultValueFactory = _ => "total" };
        sign.AcceptOnlyFromAmong("total", "frequency");
        var baseModel = new Option<string?>("--base") { Description = "Base of --models, for task-arithmetic, ties and dare.", HelpName = "MODEL" };
        var normalize = new Option<bool>("--normalize") { Description = "Divide the weights of --models by their sum." };
        var output = new Option<string>("--output") { Description = "Folder of the result; must not exist, or be empty.", Required = true, HelpName = "DIR" };
        Option<bool> anyBase = CommonOptions.AnyBase();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("combine", "Make one adapter of several, or one model of several.\nExample: lora combine --adapters runs/a=0.7 runs/b=0.5 --method ties --density 0.5 --output both")
        {
            adapters, models, method, density, rank, seed, sign, baseModel, normalize, anyBase, output, json,
        };
        command.SetAction(parsed =>
        {
            string[] names = parsed.GetValue(adapters)!;
            string[] wholes = parsed.GetValue(models)!;
            if (names.Length > 0 == wholes.Length > 0)
            {
                throw new LoraSharpException("Give either --adapters or --models, e.g. --adapters runs/a=0.7 runs/b=0.5");
            }

            string target = parsed.GetValue(output)!;
            bool byFrequency = parsed.GetValue(sign) == "frequency";
            IReadOnlyList<string> notes = names.Length > 0
                ? Adapters(names, new CombineOptions { Method = CombineOptions.Parse(parsed.GetValue(method)!), Density = parsed.GetValue(density), Rank = parsed.GetValue(rank), Seed = parsed.GetValue(seed), ByFrequency = byFrequency, AcceptOtherBases = parsed.GetValue(anyBase) }, target)
                : Models(wholes, parsed.GetValue(baseModel), new ModelCombineOptions { Method = ModelCombineOptions.Parse(parsed.GetValue(method)!), Density = parsed.GetValue(density), Seed = parsed.GetValue(seed), ByFrequency = byFrequency, Normalize = parsed.GetValue(normalize) }, target);
            if (parsed.GetValue(json))
            {
                CommandJson.Write(new { Output = target, Notes = notes });
                return 0;
            }

            foreach (string note in notes)
            {
                Console.WriteLine($"note: {note}");
            }

            Console.WriteLine($"Written: {target}");
            return 0;
        });
        return command;
    }

    private static IReadOnlyList<string> Adapters(string[] names, CombineOptions options, string output)
    {
        options.Validate();
        (string Path, double Weight)[] weighted = [.. names.Select(AdapterInputs.Weighted)];
        var opened = new List<CombinedAdapter>();
        try
        {
            opened.AddRange(weighted.Select(w => new CombinedAdapter(AdapterInputs.Adapter(w.Path), w.Weight)));
            return AdapterCombiner.Combine(opened, options, output);
        }
        finally
        {
            opened.ForEach(a => a.Folder.Dispose());
        }
    }

    private static IReadOnlyList<string> Models(string[] names, string? baseModel, ModelCombineOptions options, string output)
    {
        (string Path, double Weight)[] weighted = [.. names.Select(AdapterInputs.Weighted)];
        var opened = new List<(ModelSource Model, double Weight)>();
        ModelSource? origin = null;
        try
        {
            opened.AddRange(weighted.Select(w => (AdapterInputs.Model(w.Path), w.Weight)));
            origin = baseModel is null ? null : AdapterInputs.Model(baseModel);
            ModelCombiner.Combine(opened, origin, options, output);
            return [];
        }
        finally
        {
            opened.ForEach(m => m.Model.Dispose());
            origin?.Dispose();
        }
    }
}
