using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Sweeps;

namespace LoraSharp;

/// <summary>What a sweep varies; an empty list stands for the recipe's own value.</summary>
public sealed record SweepGrid
{
    /// <summary>Ranks.</summary>
    public IReadOnlyList<int> Ranks { get; init; } = [];

    /// <summary>Alphas; when empty and ranks vary, the recipe's ratio alpha / rank is kept, so that every trial starts at the same scale.</summary>
    public IReadOnlyList<double> Alphas { get; init; } = [];

    /// <summary>Targets, each as in a recipe: a name, <c>all-linear</c>, a regular expression, or names with commas.</summary>
    public IReadOnlyList<string> Targets { get; init; } = [];

    /// <summary>Peak learning rates.</summary>
    public IReadOnlyList<double> LearningRates { get; init; } = [];

    /// <summary>Trials in one pass.</summary>
    public int AtOnce { get; init; } = 8;

    /// <summary>Take the worse half out every so many steps; 0 = never.</summary>
    public long HalveEvery { get; init; }

    /// <summary>Every combination, in the order of the lists.</summary>
    internal IReadOnlyList<SweepTrial> Trials(LoraOptions adapter, TrainerOptions training)
    {
        double ratio = adapter.Alpha / adapter.Rank;
        return
        [
            .. from rank in Ranks.Count > 0 ? Ranks : [adapter.Rank]
               from alpha in Alphas.Count > 0 ? Alphas : [Ranks.Count > 0 ? rank * ratio : adapter.Alpha]
               from targets in Targets.Count > 0 ? Targets : [string.Empty]
               from rate in LearningRates.Count > 0 ? LearningRates : [training.LearningRate]
               select new SweepTrial(
                   Name(rank, alpha, targets, rate),
                   adapter with { Rank = rank, Alpha = alpha, Targets = targets.Length == 0 ? adapter.Targets : FineTuneRun.Selector(Names(targets)) },
                   training with { LearningRate = rate }),
        ];
    }

    private static NameSet Names(string text) => text.Contains(',') ? new NameSet(null) { Names = [.. text.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)] } : new NameSet(text);

    private static string Name(int rank, double alpha, string targets, double rate)
    {
        string where = string.Join('+', targets.Split(',').Select(t => t.Trim().Replace("_proj", string.Empty)));
        string safe = string.Concat(where.Select(c => char.IsLetterOrDigit(c) || c is '+' or '-' or '_' ? c : '_'));
        return string.Create(CultureInfo.InvariantCulture, $"r{rank}-a{alpha:0.##}{(safe.Length > 0 ? "-" + safe : string.Empty)}-lr{rate:0.######}");
    }
}

/// <summary>
/// Many adapters over one recipe, trained side by side: a folder with every adapter, a table, a plot of loss against
/// parameters and a recommendation.
/// </summary>
/// <param name="recipe">What all trials share.</param>
/// <param name="grid">What varies.</param>
/// <param name="recipeFolder">Relative paths are looked up here too; null for none.</param>
public sealed class SweepRun(Recipe recipe, SweepGrid grid, string? recipeFolder = null)
{
    /// <summary>Trains and writes.</summary>
    /// <param name="progress">Step, steps, mean loss of the running trials.</param>
    /// <param name="notes">Told what a user should know.</param>
    /// <param name="cancellation">Ends after the step it is in; what there is then is written.</param>
    /// <exception cref="LoraSharpException">Faulty settings, data or model.</exception>
    public SweepReport Execute(Action<long, long, double>? progress = null, Action<string>? notes = null, CancellationToken cancellation = default)
    {
        if (recipe.Method == "full")
        {
            throw new LoraSharpException("method is full: a sweep is over adapters that share a frozen base. Use lora or qlora.");
        }

        if (recipe.Preference.Loss != "none")
        {
            throw new LoraSharpException($"preference.loss is {recipe.Preference.Loss}: a sweep trains on the likelihood of completions only. Leave it out.");
        }

        string folder = Path.GetFullPath(recipe.Output);
        if (Directory.Exists(folder) && Directory.EnumerateFileSystemEntries(folder).Any() && !recipe.Overwrite)
        {
            throw new LoraSharpException($"{folder}: the output folder exists and is not empty. Choose another output, or set overwrite: true.");
        }

        var run = new FineTuneRun(recipe, recipeFolder);
        using LoadedModel loaded = EngineSetup.Load(run.Engine(full: false));
        using TrainingData data = TrainingData.Load(run.Data(), loaded.TokenizerOrNull, loaded.ChatRenderer, cancellation: cancellation);
        foreach (string warning in data.Report.Warnings())
        {
            notes?.Invoke(warning);
        }

        if (data.Kind != ExampleKind.Plain)
        {
            throw new LoraSharpException($"The rows are of the kind {data.Kind}. A sweep trains on texts, conversations or prompts with completions.");
        }

        TrainerOptions options = run.Options(data, loaded);
        BatchOptions batches = run.Batches(loaded, data);
        using IBatchSource source = FineTuneRun.Planner(data, batches);
        long steps = options.MaxSteps > 0 ? options.MaxSteps : source.TotalSteps ?? (long)Math.Ceiling(options.Epochs * (source.StepsPerEpoch ?? 1));
        IReadOnlyList<SweepTrial> trials = grid.Trials(run.Adapter(), options);
        using var trainer = new SideBySideTrainer(
            loaded.Model, loaded.Adapters, trials, new SweepOptions { Steps = steps, AtOnce = grid.AtOnce, EvalInterval = options.EvalInterval, HalveEvery = grid.HalveEvery });
        long started = TimeProvider.System.GetTimestamp();
        IReadOnlyList<TrialResult> results = trainer.Run(source, FineTuneRun.Validation(data, batches), (step, loss) => progress?.Invoke(step, steps, loss), cancellation);
        SweepReport report = new(folder, results, SweepRecommendation.From(results), TimeProvider.System.GetElapsedTime(started), data.Validation is not null);
        Write(report, loaded);
        return report;
    }

    private void Write(SweepReport report, LoadedModel loaded)
    {
        foreach (TrialResult result in report.Trials)
        {
            AdapterWriter.Write(loaded.Adapters[result.Trial.Name], Path.Combine(report.Folder, "adapters", result.Trial.Name), loaded.Adapters.Base);
        }

        JsonArray trials = [.. report.Trials.Select(r => (JsonNode)new JsonObject
        {
            ["name"] = r.Trial.Name,
            ["rank"] = r.Trial.Adapter.Rank,
            ["alpha"] = r.Trial.Adapter.Alpha,
            ["learning_rate"] = r.Trial.Training.LearningRate,
            ["parameters"] = r.TrainableParameters,
            ["steps"] = r.Losses.Count,
            ["score"] = double.IsFinite(r.Score) ? r.Score : null,
            ["stopped"] = r.Stopped,
            ["fault"] = r.Fault,
            ["losses"] = new JsonArray([.. r.Losses.Select(l => (JsonNode)l)]),
            ["eval_losses"] = new JsonObject(r.EvalLosses.Select(e => KeyValuePair.Create(e.Key.ToString(CultureInfo.InvariantCulture), (JsonNode?)e.Value))),
        })];
        JsonObject json = new()
        {
            ["model"] = recipe.Model,
            ["seconds"] = Math.Round(report.Time.TotalSeconds, 2),
            ["recommended"] = report.Recommendation?.Recommended.Trial.Name,
            ["best"] = report.Recommendation?.Best.Trial.Name,
            ["reasons"] = new JsonArray([.. (report.Recommendation?.Reasons ?? []).Select(r => (JsonNode)r)]),
            ["trials"] = trials,
        };
        AtomicFile.WriteText(Path.Combine(report.Folder, "sweep.json"), json.ToJsonString(new JsonSerializerOptions { WriteIndented = true }));
        AtomicFile.WriteText(Path.Combine(report.Folder, "recipe.yaml"), RecipeWriter.ToYaml(recipe));
        if (report.Recommendation is not null)
        {
            SweepPlot.Write(Path.Combine(report.Folder, "sweep.png"), report);
        }
    }
}

/// <summary>What came of a sweep.</summary>
/// <param name="Folder">Where everything lies.</param>
/// <param name="Trials">In the order of the grid.</param>
/// <param name="Recommendation">Null when every trial failed.</param>
/// <param name="Time">Of training and evaluation.</param>
/// <param name="IsValidated">Whether scores are validation losses; else they are training losses.</param>
public sealed record SweepReport(string Folder, IReadOnlyList<TrialResult> Trials, SweepRecommendation? Recommendation, TimeSpan Time, bool IsValidated);
