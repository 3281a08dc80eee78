using System.CommandLine;
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
        var recipe = new Argument<string?>("recipe") { Description = "The recipe of the run; optional when --model and --data are given.", Arity = ArgumentArity.ZeroOrOne, HelpName = "RECIPE.yaml" };
        var model = new Option<string?>("--model") { Description = "The model whose tokenizer and chat template the rows go through.", HelpName = "MODEL" };
        var rowsFile = new Option<string?>("--data") { Description = "Training data: a file or a folder.", HelpName = "PATH" };
        Option<string[]> settings = CommonOptions.Set();
        var rows = new Option<int>("--rows") { Description = "How many rows to show token by token.", HelpName = "N", DefaultValueFactory = _ => 3 };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("preview", "Shows the rows as the model sees them (tokens, what is trained on), their lengths, what is cut or dropped and why, duplicates, overlap with validation.\nExample: lora data preview recipe.yaml --rows 5 --set data.max_length=512\n         lora data preview --model HuggingFaceTB/SmolLM2-135M-Instruct --data rows.jsonl")
        {
            recipe, model, rowsFile, settings, rows, json,
        };
        command.SetAction(parsed =>
        {
            // Nothing is written, so a recipe need not say where.
            string? path = parsed.GetValue(recipe);
            KeyValuePair<string, string>[] flags =
            [
                new("output", "preview"),
                .. parsed.GetValue(model) is { } name ? (KeyValuePair<string, string>[])[new("model", name)] : [],
                .. parsed.GetValue(rowsFile) is { } file ? (KeyValuePair<string, string>[])[new("data.train", file)] : [],
                .. CommonOptions.Settings(parsed.GetValue(settings)!),
            ];
            Recipe read = RecipeReader.Read(path, flags);
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
