// A reward of your own: the model learns to answer in capital letters by being paid for them (GRPO).
using LoraSharp;
using LoraSharp.Recipes;
using LoraSharp.Training;

string assets = args.Length > 0 ? args[0] : "src/LoraSharp.Cli/assets";
Recipe recipe = RecipeReader.Read(null, new Dictionary<string, string>
{
    ["model"] = Path.Combine(assets, "tiny-base"),
    ["data.train"] = Path.Combine(assets, "quickstart", "train.jsonl"),
    ["output"] = "runs/reward-function",
    ["overwrite"] = "true",
    ["adapter.rank"] = "8",
    ["training.max_steps"] = "15",
    ["training.batch_size"] = "2",
    ["training.gradient_accumulation"] = "1",
    ["training.learning_rate"] = "8e-3",
    ["training.warmup_steps"] = "0",
    ["training.schedule"] = "constant",
    ["grpo.group_size"] = "8",
    ["grpo.max_tokens"] = "16",
});

var run = new FineTuneRun(recipe) { Reward = (prompt, reference, completion) => completion.Count(char.IsUpper) / (double)Math.Max(1, completion.Length) };
await foreach (StepCompleted step in run.StreamAsync().OfType<StepCompleted>())
{
    Console.WriteLine($"step {step.Step}: reward {step.Metrics["reward"]:0.000} ± {step.Metrics["reward_std"]:0.000}, {step.Metrics["completion_length"]:0.0} tokens a completion");
}
