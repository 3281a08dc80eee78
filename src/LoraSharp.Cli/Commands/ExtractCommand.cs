using System.CommandLine;
using LoraSharp.Adapters.Analysis;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora extract</c>.</summary>
internal static class ExtractCommand
{
    public static Command Create()
    {
        var baseModel = new Option<string>("--base") { Description = "The model that was fine-tuned.", Required = true, HelpName = "MODEL" };
        var tuned = new Option<string>("--tuned") { Description = "The fully fine-tuned model.", Required = true, HelpName = "MODEL" };
        var rank = new Option<int>("--rank") { Description = "Rank of every matrix; with --energy the most.", HelpName = "R", DefaultValueFactory = _ => 16 };
        var energy = new Option<double?>("--energy") { Description = "Choose each rank so that this share of the difference's energy is kept, e.g. 0.9.", HelpName = "E" };
        var targets = new Option<string?>("--targets") { Description = "Matrices to extract: names, a regular expression, or nothing for all that differ.", HelpName = "TARGETS" };
        var others = new Option<bool>("--save-others") { Description = "Keep norms and biases that differ, in full." };
        var seed = new Option<long>("--seed") { Description = "Seed of the randomised decomposition of large matrices.", HelpName = "S", DefaultValueFactory = _ => 0 };
        var output = new Option<string>("--output") { Description = "Folder of the adapter; must not exist, or be empty.", Required = true, HelpName = "DIR" };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("extract", "Make an adapter out of a full fine-tune, by truncated singular values, and tell each matrix's error.\nExample: lora extract --base base --tuned tuned --rank 16 --output adapter")
        {
            baseModel, tuned, rank, energy, targets, others, seed, output, json,
        };
        command.SetAction(parsed =>
        {
            var options = new ExtractOptions
            {
                Rank = parsed.GetValue(rank),
                Energy = parsed.GetValue(energy),
                Targets = parsed.GetValue(targets) is { } text ? ModuleSelector.Parse(text) : null,
                SaveOthers = parsed.GetValue(others),
                Seed = parsed.GetValue(seed),
            };
            options.Validate();
            using ModelSource from = AdapterInputs.Model(parsed.GetValue(baseModel)!);
            using ModelSource to = AdapterInputs.Model(parsed.GetValue(tuned)!);
            ExtractReport report = AdapterExtractor.Extract(from, to, parsed.GetValue(output)!, options);
            if (parsed.GetValue(json))
            {
                CommandJson.Write(new { Output = parsed.GetValue(output), report.RelativeError, report.Unchanged, report.LeftOut, report.Modules });
                return 0;
            }

            PlainTable.Write(Console.Out, ["module", "rank", "‖T−B‖", "error", "energy"], report.Modules.Select(m => (IReadOnlyList<string>)[m.Module, $"{m.Rank}", PlainTable.Number(m.Norm), $"{m.RelativeError:P2}", $"{m.Energy:P1}"]));
            Console.WriteLine($"In all: {report.Modules.Count} matrices, relative error {report.RelativeError:P2}, {report.Unchanged} matrices are equal in both models.");
            if (report.LeftOut.Count > 0)
            {
                Console.WriteLine($"note: {report.LeftOut.Count} other tensors differ and are not in the adapter ({string.Join(", ", report.LeftOut.Take(5))}{(report.LeftOut.Count > 5 ? ", ..." : string.Empty)}); --save-others keeps them in full.");
            }

            Console.WriteLine($"Written: {parsed.GetValue(output)}");
            return 0;
        });
        return command;
    }
}
