using System.CommandLine;
using LoraSharp.Formats;
using LoraSharp.Recipes;
using LoraSharp.Training.Data;
using Spectre.Console;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora data preview</c>.</summary>
internal static class DataCommand
{
    public static Command Create() => new("data", "Look at training data.\nExample: lora data preview recipe.yaml")
    {
        Preview(),
    };

    private static Command Preview()
    {
        var recipe = new Argument<string?>("RECIPE") { Description = "The recipe of the run; may be left out when --set gives model and data.train.", Arity = ArgumentArity.ZeroOrOne };
        var settings = new Option<string[]>("--set") { Description = "Sets a key of the recipe, as key=value. May be given several times.", HelpName = "KEY=VALUE", AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [] };
        var rows = new Option<int>("--rows") { Description = "How many rows to show token by token.", HelpName = "N", DefaultValueFactory = _ => 3 };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("preview", "Shows the rows as the model sees them (tokens, what is trained on), their lengths, what is cut or dropped and why, duplicates, overlap with validation.\nExample: lora data preview recipe.yaml --rows 5 --set data.max_length=512")
        {
            recipe, settings, rows, json,
        };
        command.SetAction(parsed =>
        {
            // Nothing is written, so a recipe need not say where.
            string? path = parsed.GetValue(recipe);
            Recipe read = RecipeReader.Read(path, [new("output", "preview"), .. parsed.GetValue(settings)!.Select(Setting)]);
            var told = new RecipeSettings(read, path is null ? null : Path.GetDirectoryName(Path.GetFullPath(path)));
            ModelLanguage language = ModelLanguage.Open(told.Model);
            using TrainingData data = TrainingData.Load(told.Data(), language.Tokenizer, language.ChatTemplate?.Renderer());
            BatchOptions batches = told.Batches(null, data, read.Grpo.Reward != "none");
            DataPreview preview = DataPreview.Of(data, batches, language.Tokenizer, Math.Max(0, parsed.GetValue(rows)));
            if (parsed.GetValue(json))
            {
                CommandJson.Write(Json(preview));
            }
            else
            {
                DataPreviewView.Write(AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Out) }), preview, batches.Packing);
            }
        });
        return command;
    }

    private static KeyValuePair<string, string> Setting(string text)
    {
        int equals = text.IndexOf('=');
        return equals > 0 ? new KeyValuePair<string, string>(text[..equals], text[(equals + 1)..]) : throw new LoraSharpException($"--set {text}: expected KEY=VALUE, e.g. data.max_length=512.");
    }

    private static object Json(DataPreview preview) => new
    {
        preview.Rows,
        preview.Train,
        preview.Validation,
        Sources = preview.Report.Sources,
        RowsRead = preview.Report.Rows,
        RowsCut = preview.Report.Cut.Count,
        TokensCut = preview.Report.CutTokens,
        Dropped = preview.Report.Dropped.Select(d => new { Reason = d.Key, Rows = d.Value.Count, d.Value.First }),
        Notes = preview.Report.Notes.Select(n => new { Note = n.Key, Rows = n.Value.Count, n.Value.First }),
        Duplicates = preview.Report.Duplicates.Count,
        Overlap = preview.Report.Overlap.Count,
        Batches = preview.Packed,
        BatchesWithoutPacking = preview.Padded,
        preview.Saving,
        preview.StepsPerEpoch,
        preview.TotalSteps,
        Warnings = preview.Report.Warnings(),
    };
}
