using System.CommandLine;
using System.Globalization;
using LoraSharp.Formats;
using LoraSharp.Recipes;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora sweep</c>: many adapters over one recipe, trained side by side.</summary>
internal static class SweepCommand
{
    public static Command Create()
    {
        var recipe = new Argument<string>("recipe") { Description = "Recipe in YAML: what all trials share.", HelpName = "RECIPE.yaml" };
        var set = new Option<string[]>("--set") { Description = "One setting of the recipe; may be given several times, the last wins.", HelpName = "KEY=VALUE", DefaultValueFactory = _ => [], AllowMultipleArgumentsPerToken = true };
        var ranks = new Option<string?>("--ranks") { Description = "Ranks, with commas. Alpha keeps the recipe's ratio to the rank unless --alphas is given.", HelpName = "R,R,..." };
        var alphas = new Option<string?>("--alphas") { Description = "Alphas, with commas.", HelpName = "A,A,..." };
        var targets = new Option<string[]>("--targets") { Description = "Targets of one trial (names with commas, or all-linear); several times or several values for several.", HelpName = "NAMES", DefaultValueFactory = _ => [], AllowMultipleArgumentsPerToken = true };
        var rates = new Option<string?>("--learning-rates") { Description = "Peak learning rates, with commas.", HelpName = "LR,LR,..." };
        var atOnce = new Option<int>("--at-once") { Description = "Trials in one pass: more is faster and needs more memory.", HelpName = "N", DefaultValueFactory = _ => 8 };
        var halve = new Option<long>("--halve-every") { Description = "Take the worse half of the trials out every so many steps (successive halving); 0 = never.", HelpName = "STEPS", DefaultValueFactory = _ => 0 };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("sweep", "Train adapters of several ranks, alphas, targets and learning rates side by side on one base; table, plot, recommendation.\nExample: lora sweep recipe.yaml --ranks 2,8,32 --targets q_proj,v_proj all-linear --learning-rates 1e-4,5e-4")
        {
            recipe, set, ranks, alphas, targets, rates, atOnce, halve, json,
        };
        command.SetAction((parsed, cancellation) =>
        {
            SweepGrid grid = new()
            {
                Ranks = [.. Numbers(parsed.GetValue(ranks), "--ranks", wholeOnly: true).Select(n => (int)n)],
                Alphas = Numbers(parsed.GetValue(alphas), "--alphas", wholeOnly: false),
                Targets = parsed.GetValue(targets)!,
                LearningRates = Numbers(parsed.GetValue(rates), "--learning-rates", wholeOnly: false),
                AtOnce = parsed.GetValue(atOnce),
                HalveEvery = parsed.GetValue(halve),
            };
            return Task.FromResult(Run(parsed.GetValue(recipe)!, parsed.GetValue(set)!, grid, parsed.GetValue(json), cancellation));
        });
        return command;
    }

    private static int Run(string path, string[] set, SweepGrid grid, bool json, CancellationToken cancellation)
    {
        Recipe recipe = RecipeReader.Read(path, [.. set.Select(Pair)]);
        SweepReport report = new SweepRun(recipe, grid, Path.GetDirectoryName(Path.GetFullPath(path)))
            .Execute(json ? null : Progress, note => Console.Error.WriteLine($"note: {note}"), cancellation);
        if (json)
        {
            CommandJson.Write(new
            {
                Output = report.Folder,
                Recommended = report.Recommendation?.Recommended.Trial.Name,
                Best = report.Recommendation?.Best.Trial.Name,
                report.Recommendation?.Reasons,
                Seconds = report.Time.TotalSeconds,
                Trials = report.Trials.Select(t => new { t.Trial.Name, t.Trial.Adapter.Rank, t.Trial.Adapter.Alpha, t.Trial.Training.LearningRate, Parameters = t.TrainableParameters, Steps = t.Losses.Count, Loss = t.Score, t.Stopped, t.Fault }),
            });
        }
        else
        {
            Print(report);
        }

        return report.Recommendation is null ? 1 : 0;
    }

    private static void Print(SweepReport report)
    {
        PlainTable.Write(
            Console.Out,
            ["trial", "parameters", "steps", report.IsValidated ? "validation loss" : "training loss", string.Empty],
            report.Trials.OrderBy(t => t.Score).Select(t => (IReadOnlyList<string>)
            [
                t.Trial.Name, PlainTable.Count(t.TrainableParameters), t.Losses.Count.ToString(CultureInfo.InvariantCulture),
                double.IsFinite(t.Score) ? PlainTable.Number(t.Score) : "-",
                t.Fault is not null ? "failed" : t.Stopped ? "taken out" : t == report.Recommendation?.Recommended ? "recommended" : string.Empty,
            ]));
        foreach (string reason in report.Recommendation?.Reasons ?? ["Every trial failed: the losses are no numbers. Try lower learning rates."])
        {
            Console.WriteLine(reason);
        }

        Console.WriteLine($"Written: {report.Folder} (adapters, sweep.json, sweep.png)");
    }

    private static void Progress(long step, long steps, double loss)
    {
        // About twenty lines in all.
        if (step == 1 || step == steps || step % Math.Max(1, steps / 20) == 0)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"step {step}/{steps}  mean loss {loss:0.0000}"));
        }
    }

    private static double[] Numbers(string? text, string option, bool wholeOnly)
    {
        List<double> numbers = [];
        foreach (string part in (text ?? string.Empty).Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))
        {
            if (!double.TryParse(part, NumberStyles.Float, CultureInfo.InvariantCulture, out double number) || number <= 0 || (wholeOnly && number != Math.Floor(number)))
            {
                throw new LoraSharpException($"{option}: expected {(wholeOnly ? "whole " : string.Empty)}numbers above 0 with commas between them, found '{part}'.");
            }

            numbers.Add(number);
        }

        return [.. numbers];
    }

    private static KeyValuePair<string, string> Pair(string text)
    {
        int equals = text.IndexOf('=');
        return equals > 0
            ? new(text[..equals].Trim(), text[(equals + 1)..].Trim())
            : throw new LoraSharpException($"--set '{text}': expected KEY=VALUE, e.g. --set training.epochs=1.");
    }
}
