// A loss of your own: focal loss (Lin et al. 2017, equation 4), which lets tokens that are predicted well already count less.
using LoraSharp;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

const double Gamma = 2;
string assets = args.Length > 0 ? args[0] : "src/LoraSharp.Cli/assets";
Recipe recipe = RecipeReader.Read(null, new Dictionary<string, string>
{
    ["model"] = Path.Combine(assets, "tiny-base"),
    ["data.train"] = Path.Combine(assets, "quickstart", "train.jsonl"),
    ["output"] = "runs/custom-loss",
    ["overwrite"] = "true",
    ["adapter.rank"] = "8",
    ["training.max_steps"] = "20",
    ["training.batch_size"] = "8",
    ["training.gradient_accumulation"] = "1",
    ["training.learning_rate"] = "5e-3",
});

var run = new FineTuneRun(recipe) { Objective = (loaded, options, noise) => new TokenLossObjective(loaded.Model, options, Focal, noise) };

// Ctrl+C saves after the step it is in; the same command goes on from there.
using var stop = new CancellationTokenSource();
Console.CancelKeyPress += (_, pressed) =>
{
    pressed.Cancel = true;
    stop.Cancel();
};
await foreach (TrainingEvent happened in run.StreamAsync(cancellation: stop.Token))
{
    if (happened is StepCompleted step)
    {
        Console.WriteLine($"step {step.Step} of {step.TotalSteps}: focal loss {step.Loss:0.0000}");
    }
    else if (happened is TrainingEnded ended)
    {
        Console.WriteLine(ended.Message);
    }
}

// logits [n, v], targets [n] → losses [n]: −(1 − p)^γ · log p.
static Tensor Focal(Tensor logits, Tensor targets)
{
    Tensor logP = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1);
    return -(1 - logP.exp()).pow(Gamma) * logP;
}
