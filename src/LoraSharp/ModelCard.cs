using System.Globalization;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Data;

namespace LoraSharp;

/// <summary>The README.md of a run folder, in the form the hub reads: what it is, from what, how, with which result.</summary>
internal sealed record ModelCard
{
    /// <summary>Resolved settings.</summary>
    public required Recipe Recipe { get; init; }

    /// <summary>The base's <c>config.json</c>.</summary>
    public required JsonObject Config { get; init; }

    /// <summary>The rows; null when they came from the caller.</summary>
    public DataReport? Data { get; init; }

    /// <summary>Examples and tokens of the training rows; null likewise.</summary>
    public (int Examples, long Tokens)? Size { get; init; }

    /// <summary>How the run came out.</summary>
    public required TrainingResult Result { get; init; }

    /// <summary>Trained numbers.</summary>
    public required long Parameters { get; init; }

    /// <summary>Loss of the first step.</summary>
    public double? FirstLoss { get; init; }

    /// <summary>The objective's own numbers at the last step.</summary>
    public IReadOnlyDictionary<string, double> LastMetrics { get; init; } = new Dictionary<string, double>();

    /// <summary>Whether the loss is a likelihood, so that its exponential means something.</summary>
    public bool IsLikelihood { get; init; } = true;

    /// <summary>Device the run was made on.</summary>
    public required string Device { get; init; }

    /// <summary>Type the base computed in.</summary>
    public required string DType { get; init; }

    /// <summary>Largest resident memory of the process in bytes.</summary>
    public long PeakMemory { get; init; }

    /// <summary>When it was made.</summary>
    public required DateTimeOffset Date { get; init; }

    private bool IsAdapter => Recipe.Method != "full";

    private bool IsChat => Data?.Sources.Any(source => source.Format == "chat") == true;

    /// <summary>The card as Markdown.</summary>
    public string ToMarkdown()
    {
        var text = new StringBuilder();
        FrontMatter(text);
        string kind = (string?)Config["model_type"] ?? "unknown family";
        text.Append($"# {Path.GetFileName(Path.TrimEndingDirectorySeparator(Recipe.Output))}\n\n");
        text.Append(IsAdapter
            ? $"A LoRA adapter for `{Recipe.Model}` ({kind}), trained with LoraSharp{(Recipe.Method == "qlora" ? $" on a base in 4 bits (QLoRA, {Recipe.Quantization.Type})" : "")}.\n"
            : $"`{Recipe.Model}` ({kind}), fine-tuned in full with LoraSharp.\n");
        text.Append("Its licence is bound by the base model's and the data's.\n");
        Table(text, "Training", TrainingRows());
        Table(text, "Data", DataRows());
        Table(text, "Results", ResultRows());
        Table(text, "Made with", VersionRows());
        text.Append("\n## Recipe\nEvery setting, defaults filled in (`recipe.yaml`):\n\n```yaml\n").Append(RecipeWriter.ToYaml(Recipe)).Append("```\n");
        text.Append("\nEvery step is in `metrics.jsonl`, the curve in `loss.png`.\n");
        text.Append($"\n## Use\n```\n{TrainedModelUse.Command(Recipe, Recipe.Model, IsChat)}\n```\n");
        if (IsAdapter)
        {
            text.Append($"\nIn Python: `PeftModel.from_pretrained(base, \"{Recipe.Output}\")`.\n");
        }

        return text.ToString();
    }

    private void FrontMatter(StringBuilder text)
    {
        text.Append("---\n").Append("base_model: ").Append(Recipe.Model).Append('\n');
        text.Append("base_model_relation: ").Append(IsAdapter ? "adapter" : "finetune").Append('\n');
        text.Append("library_name: ").Append(IsAdapter ? "peft" : "transformers").Append('\n');
        text.Append("pipeline_tag: text-generation\ntags:\n- lorasharp\n").Append(IsAdapter ? "- lora\n" : "").Append("---\n\n");
    }

    private static void Table(StringBuilder text, string title, IEnumerable<(string Key, string Value)> rows)
    {
        text.Append($"\n## {title}\n| | |\n| --- | --- |\n");
        foreach ((string key, string value) in rows)
        {
            text.Append($"| {key} | {value.Replace("|", "\\|")} |\n");
        }
    }

    private IEnumerable<(string Key, string Value)> TrainingRows()
    {
        TrainingRecipe t = Recipe.Training;
        yield return ("trained", $"{Whole(Parameters)} parameters");
        if (IsAdapter && Recipe.Adapter.InitFrom is { } start)
        {
            yield return ("begun from", $"`{start}`");
        }
        else if (IsAdapter)
        {
            yield return ("rank, alpha", $"{Recipe.Adapter.Rank}, {Number(Recipe.Adapter.Alpha)}{(Recipe.Adapter.Rslora ? ", rsLoRA" : "")}{(Recipe.Adapter.Dora ? ", DoRA" : "")}");
            yield return ("targets", Recipe.Adapter.Targets.ToString());
        }

        yield return ("objective", Recipe.Grpo.Reward != "none" ? $"GRPO, reward {Recipe.Grpo.Reward}" : Recipe.Preference.Loss != "none" ? $"{Recipe.Preference.Loss}, beta {Number(Recipe.Preference.Beta)}" : IsLikelihood ? "next-token prediction" : "see metrics.jsonl");
        yield return ("steps", $"{Result.Steps} of {t.BatchSize} × {t.GradientAccumulation} rows{(Recipe.Data.Packing ? $", packed to {Recipe.Data.MaxLength} tokens" : "")}");
        yield return ("optimizer", $"{t.Optimizer}, learning rate {Number(t.LearningRate)}, {t.Schedule}, {t.WarmupSteps} warm-up steps, weight decay {Number(t.WeightDecay)}, seed {t.Seed}");
    }

    private IEnumerable<(string Key, string Value)> DataRows()
    {
        if (Data is null)
        {
            yield return ("source", "the caller's own");
            yield break;
        }

        foreach (SourceReport source in Data.Sources)
        {
            yield return ($"`{Path.GetFileName(source.Path)}`", $"{Whole(source.Rows)} rows ({source.Format}){(source.Files > 1 ? $" in {source.Files} files" : "")}");
        }

        if (Size is var (examples, tokens))
        {
            yield return ("training examples", $"{Whole(examples)}, {Whole(tokens)} tokens");
        }

        yield return ("validation", Recipe.Data.Validation);
        foreach (string warning in Data.Warnings())
        {
            yield return ("note", warning);
        }
    }

    private IEnumerable<(string Key, string Value)> ResultRows()
    {
        yield return ("training loss", $"{Number(FirstLoss)} at the first step, {Number(Result.Loss)} over the last ones");
        if (Result.EvalLoss is { } eval)
        {
            yield return ("validation loss", $"{Number(eval)}{(IsLikelihood ? $" (perplexity {Number(Math.Exp(eval))})" : "")}; best {Number(Result.BestLoss)} at step {Result.BestStep}");
        }

        foreach ((string name, double value) in LastMetrics.OrderBy(m => m.Key, StringComparer.Ordinal))
        {
            yield return (name, Number(value));
        }
    }

    private IEnumerable<(string Key, string Value)> VersionRows()
    {
        yield return ("LoraSharp", Version(typeof(ModelCard)));
        yield return ("TorchSharp", Version(typeof(TorchSharp.torch)));
        yield return ("runtime", $"{RuntimeInformation.FrameworkDescription}, {RuntimeInformation.RuntimeIdentifier}");
        yield return ("device", $"{Device}, base in {DType}");
        yield return ("peak memory", string.Create(CultureInfo.InvariantCulture, $"{PeakMemory / 1e9:0.00} GB resident"));
        yield return ("date", Date.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture));
    }

    private static string Version(Type type) =>
        type.Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+')[0] ?? type.Assembly.GetName().Version?.ToString() ?? "unknown";

    private static string Whole(long value) => value.ToString("N0", CultureInfo.InvariantCulture);

    private static string Number(double? value) => value?.ToString("0.######", CultureInfo.InvariantCulture) ?? "unknown";
}
