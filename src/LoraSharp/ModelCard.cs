using System.Globalization;
using System.Reflection;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Data;

namespace LoraSharp;

/// <summary>The README.md of a run folder, in the form the hub reads: what it is, from what, how, with which result.</summary>
internal static class ModelCard
{
    public static string Write(Recipe recipe, JsonObject config, DataReport data, TrainingResult result, long parameters, double? firstLoss, DateTimeOffset date)
    {
        var text = new StringBuilder();
        string name = Path.GetFileName(Path.TrimEndingDirectorySeparator(recipe.Output));
        bool adapter = recipe.Method != "full";
        text.Append("---\n").Append("base_model: ").Append(recipe.Model).Append('\n');
        if (adapter)
        {
            text.Append("library_name: peft\n");
        }

        text.Append("pipeline_tag: text-generation\ntags:\n- lorasharp\n").Append(adapter ? "- lora\n" : "").Append("---\n\n");
        text.Append($"# {name}\n\n");
        text.Append(adapter
            ? $"A LoRA adapter for `{recipe.Model}` ({(string?)config["model_type"]}), trained with LoraSharp{(recipe.Method == "qlora" ? " on a base in 4 bits (QLoRA)" : "")}.\n\n"
            : $"`{recipe.Model}` ({(string?)config["model_type"]}), fine-tuned in full with LoraSharp.\n\n");
        text.Append("| | |\n| --- | --- |\n");
        void Row(string key, string value) => text.Append($"| {key} | {value} |\n");
        Row("trained", $"{parameters.ToString("N0", CultureInfo.InvariantCulture)} parameters");
        if (adapter && recipe.Adapter.InitFrom is null)
        {
            Row("rank, alpha", $"{recipe.Adapter.Rank}, {recipe.Adapter.Alpha.ToString(CultureInfo.InvariantCulture)}{(recipe.Adapter.Rslora ? ", rsLoRA" : "")}{(recipe.Adapter.Dora ? ", DoRA" : "")}");
            Row("targets", recipe.Adapter.Targets.ToString());
        }

        foreach (SourceReport source in data.Sources)
        {
            Row("data", $"`{Path.GetFileName(source.Path)}`, {source.Rows.ToString("N0", CultureInfo.InvariantCulture)} rows ({source.Format})");
        }

        Row("steps", $"{result.Steps} of {recipe.Training.BatchSize} × {recipe.Training.GradientAccumulation} rows, learning rate {recipe.Training.LearningRate.ToString(CultureInfo.InvariantCulture)}, {recipe.Training.Schedule}, seed {recipe.Training.Seed}");
        Row("training loss", $"{Number(firstLoss)} at the first step, {Number(result.Loss)} over the last ones");
        if (result.EvalLoss is { } eval)
        {
            Row("validation loss", $"{Number(eval)} (perplexity {Number(Math.Exp(eval))}); best {Number(result.BestLoss)} at step {result.BestStep}");
        }

        Row("made", $"{date.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture)} with LoraSharp {typeof(ModelCard).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+')[0]}");
        text.Append("\nThe resolved recipe is in `recipe.yaml`, every step in `metrics.jsonl`, the curve in `loss.png`.\n");
        if (adapter)
        {
            text.Append($"\n```\nlora generate --model {recipe.Model} --adapter {recipe.Output} --prompt \"...\"\n```\n\nIn Python: `PeftModel.from_pretrained(base, \"{recipe.Output}\")`.\n");
        }

        return text.ToString();
    }

    private static string Number(double? value) => value?.ToString("0.####", CultureInfo.InvariantCulture) ?? "unknown";
}
