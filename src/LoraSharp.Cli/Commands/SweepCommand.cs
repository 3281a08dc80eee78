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
        var recipe = new Argument<string>("recipe") { Description = "Recipe in YAML: what all trials share, and in its sweep section what varies (docs/recipe.md); flags win.", HelpName = "RECIPE.yaml" };
        Option<string[]> set = CommonOptions.Set();
        var ranks = new Option<string?>("--ranks") { Description = "Ranks, with commas. Alpha keeps the recipe's ratio to the rank unless --alphas is given.", HelpName = "R,R,..." };
        var alphas = new Option<string?>("--alphas") { Description = "Alphas, with commas.", HelpName = "A,A,..." };
        var targets = new Option<string[]>("--targets") { Description = "Targets of one trial (names with commas, or all-linear); several times or several values for several.", HelpName = "NAMES", DefaultValueFactory = _ => [], AllowMultipleArgumentsPerToken = true };
        var rates = new Option<string?>("--learning-rates") { Description = "Peak learning rates, with commas.", HelpName = "LR,LR,..." };
        var variants = new Option<string?>("--variants") { Description = "Variants, with commas: lora, rslora, dora, loraplus, pissa, olora.", HelpName = "NAME,NAME,..." };
        var full = new Option<string?>("--full") { Description = "Also fine-tune every weight with each of these learning rates: the ceiling.", HelpName = "LR,LR,..." };
        var test = new Option<string?>("--test") { Description = "Rows to measure every trial on: loss, exact match, BLEU, ROUGE-L.", HelpName = "PATH" };
        var atOnce = new Option<int?>("--at-once") { Description = "Most trials in one pass; default: as many as fill it.", HelpName = "N" };
        var halve = new Option<int?>("--halve-every") { Description = "Take the worse half of the trials out every so many steps (successive halving); 0 = never.", HelpName = "STEPS" };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("sweep", "Train adapters of several ranks, alphas, targets, learning rates and variants on one base, side by side; table, plots, recommendation.\nExample: lora sweep recipe.yaml --ranks 2,8,32 --targets q_proj,v_proj all-linear --learning-rates 1e-4,5e-4 --full 5e-5")
        {
            recipe, set, ranks, alphas, targets, rates, variants, full, test, atOnce, halve, json,
        };
        command.SetAction((parsed, cancellation) =>
        {
            List<KeyValuePair<string, string>> settings = [.. CommonOptions.Settings(parsed.GetValue(set)!)];
            void Add(string key, string? value)
            {
                if (!string.IsNullOrEmpty(value))
                {
                    settings.Add(new("sweep." + key, value));
                }
            }

            Add("ranks", Numbers(parsed.GetValue(ranks), "--ranks", wholeOnly: true));
            Add("alphas", Numbers(parsed.GetValue(alphas), "--alphas", wholeOnly: false));
            Add("learning_rates", Numbers(parsed.GetValue(rates), "--learning-rates", wholeOnly: false));
            Add("full_learning_rates", Numbers(parsed.GetValue(full), "--full", wholeOnly: false));
            Add("variants", parsed.GetValue(variants) is { } names ? $"[{names}]" : null);
            Add("targets", parsed.GetValue(targets) is { Length: > 0 } sets ? $"[{string.Join(", ", sets.Select(Names))}]" : null);
            Add("test", parsed.GetValue(test));
            Add("at_once", parsed.GetValue(atOnce)?.ToString(CultureInfo.InvariantCulture));
            Add("halve_every", parsed.GetValue(halve)?.ToString(CultureInfo.InvariantCulture));
            return Task.FromResult(Run(parsed.GetValue(recipe)!, settings, parsed.GetValue(json), cancellation));
        });
        return command;
    }

    private static int Run(string path, IReadOnlyList<KeyValuePair<string, string>> settings, bool json, CancellationToken cancellation)
    {
        Recipe recipe = RecipeReader.Read(path, settings);
        SweepReport report = new SweepRun(recipe, Path.GetDirectoryName(Path.GetFullPath(path)))
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
                Trials = report.Trials.Select(t => new
                {
                    t.Trial.Name,
                    t.Trial.Variant,
                    t.Trial.Adapter?.Rank,
                    t.Trial.Adapter?.Alpha,
                    t.Trial.Targets,
                    t.Trial.Training.LearningRate,
                    Parameters = t.Training.TrainableParameters,
                    Steps = t.Training.Losses.Count,
                    Loss = t.Training.Score,
                    Seconds = t.Time.TotalSeconds,
                    TestLoss = t.Test?.Loss.Loss,
                    t.Test?.Scores?.ExactMatch,
                    Bleu = t.Test?.Scores?.Bleu.Score,
                    t.Training.Stopped,
                    t.Training.Fault,
                }),
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
        bool tested = report.Trials.Any(t => t.Test is not null);
        bool generated = report.Trials.Any(t => t.Test?.Scores is not null);
        string[] head =
        [
            "trial", "parameters", "steps", "seconds", report.IsValidated ? "validation loss" : "training loss",
            .. tested ? ["test loss"] : Array.Empty<string>(), .. generated ? ["exact match", "BLEU"] : Array.Empty<string>(), string.Empty,
        ];
        PlainTable.Write(Console.Out, head, report.Trials.OrderBy(t => t.Training.Score).Select(t => (IReadOnlyList<string>)
        [
            t.Trial.Name, PlainTable.Count(t.Training.TrainableParameters), t.Training.Losses.Count.ToString(CultureInfo.InvariantCulture),
            t.Time.TotalSeconds.ToString("0.0", CultureInfo.InvariantCulture), Number(double.IsFinite(t.Training.Score) ? t.Training.Score : null),
            .. tested ? [Number(t.Test?.Loss.Loss)] : Array.Empty<string>(),
            .. generated ? [Number(t.Test?.Scores?.ExactMatch), Number(t.Test?.Scores?.Bleu.Score)] : Array.Empty<string>(),
            Remark(t, report),
        ]));
        foreach (string reason in report.Recommendation?.Reasons ?? ["Every trial failed: the losses are no numbers. Try lower learning rates."])
        {
            Console.WriteLine(reason);
        }

        Console.WriteLine($"Written: {report.Folder} (adapters, sweep.json, sweep.csv, sweep.png)");
    }

    private static string Number(double? value) => value is { } number ? PlainTable.Number(number) : "-";

    private static string Remark(TrialReport trial, SweepReport report) => trial.Training.Fault is not null ? "failed"
        : trial.Training.Stopped ? "taken out"
        : trial.Trial.IsFull ? "every weight"
        : trial.Trial == report.Recommendation?.Recommended.Trial ? "recommended" : string.Empty;

    private static void Progress(SweepProgress p)
    {
        // About twenty lines in all for trials side by side, three for each of those that train alone.
        long every = Math.Max(1, p.Trial is null ? p.Steps / 20 : p.Steps / 2);
        if (p.Step == 1 || p.Step == p.Steps || p.Step % every == 0)
        {
            Console.WriteLine(p.Trial is null
                ? string.Create(CultureInfo.InvariantCulture, $"step {p.Step}/{p.Steps}  mean loss {p.Loss:0.0000}")
                : string.Create(CultureInfo.InvariantCulture, $"{p.Done + 1}/{p.Trials} {p.Trial}  step {p.Step}/{p.Steps}  loss {p.Loss:0.0000}"));
        }
    }

    // A value of --targets as YAML: a list where there are commas and nothing of a regular expression.
    private static string Names(string text) => text.Contains(',') && text.All(c => char.IsLetterOrDigit(c) || c is '_' or '.' or '-' or ',' or ' ')
        ? $"[{text}]"
        : $"'{text.Replace("'", "''")}'";

    private static string? Numbers(string? text, string option, bool wholeOnly)
    {
        string[] parts = (text ?? string.Empty).Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
        foreach (string part in parts)
        {
            if (!double.TryParse(part, NumberStyles.Float, CultureInfo.InvariantCulture, out double number) || number <= 0 || (wholeOnly && number != Math.Floor(number)))
            {
                throw new LoraSharpException($"{option}: expected {(wholeOnly ? "whole " : string.Empty)}numbers above 0 with commas between them, found '{part}'.");
            }
        }

        return parts.Length > 0 ? $"[{string.Join(", ", parts)}]" : null;
    }
}
