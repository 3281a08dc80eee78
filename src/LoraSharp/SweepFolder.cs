using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Recipes;
using LoraSharp.Training.Sweeps;

namespace LoraSharp;

/// <summary>
/// The folder of a sweep: recipe.yaml, an adapter a trial, sweep.json and sweep.csv, which are written anew after
/// each trial so that a sweep that was cut off leaves what it has found, and the plots.
/// </summary>
internal sealed class SweepFolder
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };
    private readonly Recipe _recipe;

    /// <summary>Makes the folder this sweep's.</summary>
    /// <exception cref="LoraSharpException">It holds something and the recipe does not say to overwrite.</exception>
    public SweepFolder(Recipe recipe)
    {
        _recipe = recipe;
        Path = System.IO.Path.GetFullPath(recipe.Output);
        if (Directory.Exists(Path) && Directory.EnumerateFileSystemEntries(Path).Any() && !recipe.Overwrite)
        {
            throw new LoraSharpException($"{Path}: the output folder exists and is not empty. Choose another output, or set overwrite: true.");
        }

        Directory.CreateDirectory(Path);
        AtomicFile.WriteText(System.IO.Path.Combine(Path, "recipe.yaml"), RecipeWriter.ToYaml(recipe));
    }

    public string Path { get; }

    private string Results => System.IO.Path.Combine(Path, "sweep.json");

    /// <summary>Where a trial's adapter goes.</summary>
    public string Adapter(SweepTrial trial) => System.IO.Path.Combine(Path, "adapters", trial.Name);

    /// <summary>Writes the results so far.</summary>
    public void Write(SweepReport report)
    {
        AtomicFile.WriteText(Results, Json(report).ToJsonString(Indented));
        AtomicFile.WriteText(System.IO.Path.Combine(Path, "sweep.csv"), Csv(report));
    }

    /// <summary>Draws what <see cref="Write"/> wrote last: one way from results to plots, for this sweep and for those of others.</summary>
    public void Draw(SweepReport report)
    {
        if (report.Recommendation is not null)
        {
            SweepPlot.Write(
                System.IO.Path.Combine(Path, "sweep.png"),
                System.IO.Path.GetFileName(System.IO.Path.TrimEndingDirectorySeparator(_recipe.Model)),
                SweepPoint.Read(Results),
                report.IsValidated ? "validation loss" : "training loss",
                report.Recommendation.Recommended.Trial.Name);
        }
    }

    private JsonObject Json(SweepReport report) => new()
    {
        ["model"] = _recipe.Model,
        ["seconds"] = Math.Round(report.Time.TotalSeconds, 2),
        ["recommended"] = report.Recommendation?.Recommended.Trial.Name,
        ["best"] = report.Recommendation?.Best.Trial.Name,
        ["reasons"] = new JsonArray([.. (report.Recommendation?.Reasons ?? []).Select(r => (JsonNode)r)]),
        ["validated"] = report.IsValidated,
        ["trials"] = Trials(report),
    };

    private static JsonArray Trials(SweepReport report) => [.. report.Trials.Select(Json)];

    private static JsonNode Json(TrialReport report)
    {
        TrialResult r = report.Training;
        return new JsonObject
        {
            ["name"] = r.Trial.Name,
            ["variant"] = r.Trial.Variant,
            ["rank"] = r.Trial.Adapter?.Rank,
            ["alpha"] = r.Trial.Adapter?.Alpha,
            ["targets"] = r.Trial.Targets,
            ["learning_rate"] = r.Trial.Training.LearningRate,
            ["parameters"] = r.TrainableParameters,
            ["steps"] = r.Losses.Count,
            ["seconds"] = Math.Round(report.Time.TotalSeconds, 2),
            ["score"] = double.IsFinite(r.Score) ? r.Score : null,
            ["stopped"] = r.Stopped,
            ["fault"] = r.Fault,
            ["test"] = Json(report.Test),
            ["losses"] = new JsonArray([.. r.Losses.Select(l => (JsonNode)l)]),
            ["eval_losses"] = new JsonObject(r.EvalLosses.Select(e => KeyValuePair.Create(e.Key.ToString(CultureInfo.InvariantCulture), (JsonNode?)e.Value))),
        };
    }

    private static JsonObject? Json(TestScores? test)
    {
        if (test is null)
        {
            return null;
        }

        JsonObject json = test.Scores?.ToJson() ?? [];
        json["loss"] = test.Loss.Loss;
        json["token_accuracy"] = test.Loss.Accuracy;
        return json;
    }

    private static string Csv(SweepReport report)
    {
        var text = new StringBuilder("name,variant,rank,alpha,targets,learning_rate,parameters,steps,seconds,loss,test_loss,token_accuracy,exact_match,bleu,rougeL,fault\n");
        foreach (TrialReport t in report.Trials)
        {
            TrialResult r = t.Training;
            object?[] cells =
            [
                r.Trial.Name, r.Trial.Variant, r.Trial.Adapter?.Rank, r.Trial.Adapter?.Alpha, r.Trial.Targets, r.Trial.Training.LearningRate, r.TrainableParameters,
                r.Losses.Count, Math.Round(t.Time.TotalSeconds, 2), double.IsFinite(r.Score) ? r.Score : null, t.Test?.Loss.Loss, t.Test?.Loss.Accuracy,
                t.Test?.Scores?.ExactMatch, t.Test?.Scores?.Bleu.Score, t.Test?.Scores?.RougeL, r.Fault,
            ];
            text.AppendJoin(',', cells.Select(Cell)).Append('\n');
        }

        return text.ToString();
    }

    private static string Cell(object? value)
    {
        string text = Convert.ToString(value, CultureInfo.InvariantCulture) ?? string.Empty;
        return text.AsSpan().IndexOfAny(",\"\n") < 0 ? text : $"\"{text.Replace("\"", "\"\"")}\"";
    }
}
