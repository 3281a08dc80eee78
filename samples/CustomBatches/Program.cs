// Micro-batches of your own: sums that are made up as they are needed, an endless data set without a file.
using System.Text.Json.Nodes;
using LoraSharp;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Data;

string assets = args.Length > 0 ? args[0] : "src/LoraSharp.Cli/assets";
Recipe recipe = RecipeReader.Read(null, new Dictionary<string, string>
{
    ["model"] = Path.Combine(assets, "tiny-base"),
    ["output"] = "runs/custom-batches",
    ["overwrite"] = "true",
    ["training.max_steps"] = "30",
    ["training.learning_rate"] = "5e-3",
});
var run = new FineTuneRun(recipe) { Source = loaded => new Sums(loaded.Tokenizer, rows: 16, seed: 42) };
await foreach (StepCompleted step in run.StreamAsync().OfType<StepCompleted>())
{
    Console.WriteLine($"step {step.Step}: loss {step.Loss:0.000}, {step.TokensPerSecond:0} tokens/s");
}

/// <summary>Rows such as "17 + 25 =" → " 42", of which only the result is trained on.</summary>
internal sealed class Sums(Tokenizer tokenizer, int rows, int seed) : IBatchSource
{
    private long _step;

    public long? StepsPerEpoch => null;

    public double Epoch => 0;

    public IReadOnlyList<MicroBatch> NextStep()
    {
        // Drawn from the step alone, so that a run that goes on sees the rows it would have seen.
        var random = new Random(unchecked(seed + (int)(_step++ * 7919)));
        return [MicroBatchBuilder.Build([.. Enumerable.Range(0, rows).Select(_ => Row(random.Next(50), random.Next(50)))])];
    }

    public JsonObject SaveState() => new() { ["step"] = _step };

    public void RestoreState(JsonObject state) => _step = (long)state["step"]!;

    public void Dispose()
    {
    }

    private TrainingExample Row(int a, int b)
    {
        int[] prompt = tokenizer.Encode($"{a} + {b} ="), answer = tokenizer.Encode($" {a + b}\n", addSpecialTokens: false);
        int[] masked = [.. Enumerable.Repeat(TrainingExample.Ignored, prompt.Length)];
        return new TrainingExample { InputIds = [.. prompt, .. answer], Labels = [.. masked, .. answer], Origin = $"{a} + {b}" };
    }
}
