using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Layers;
using LoraSharp.Training.Optimizers;

namespace LoraSharp.Training.Checkpoints;

/// <summary>The tensors of a checkpoint: trained weights, optimizer state, their average.</summary>
internal static class TrainerCheckpoint
{
    private const string Weights = "trainable.safetensors";
    private const string State = "optimizer.safetensors";
    private const string Average = "ema.safetensors";

    public static void Write(string folder, GradientBuffer gradients, Optimizer optimizer, WeightAverage? average)
    {
        TensorFile.Write(Path.Combine(folder, Weights), Trained(gradients));
        TensorFile.Write(Path.Combine(folder, State), optimizer.State);
        if (average is not null)
        {
            TensorFile.Write(Path.Combine(folder, Average), average.State);
        }
    }

    public static void Read(string folder, TrainingState state, GradientBuffer gradients, Optimizer optimizer, WeightAverage? average)
    {
        ReadWeights(folder, gradients, average);
        TensorFile.ReadInto(Path.Combine(folder, State), [.. optimizer.State]);
        optimizer.Restored(state.OptimizerSteps);
    }

    public static void ReadWeights(string folder, GradientBuffer gradients, WeightAverage? average)
    {
        TensorFile.ReadInto(Path.Combine(folder, Weights), [.. Trained(gradients)]);
        if (average is not null)
        {
            TensorFile.ReadInto(Path.Combine(folder, Average), average.State);
        }
    }

    public static void ThrowIfDifferent(string folder, TrainingState state, JsonObject? recipe)
    {
        if (recipe is null || state.Recipe is null)
        {
            return;
        }

        IReadOnlyList<string> differences = CheckpointStore.Differences(state.Recipe, recipe);
        if (differences.Count > 0)
        {
            throw new LoraSharpException(
                $"{folder}: this checkpoint was made with other settings ({differences.Count} {(differences.Count == 1 ? "difference" : "differences")}):\n  {string.Join("\n  ", differences)}\n" +
                "Take the settings back to go on from it, or choose another output folder to start anew.");
        }
    }

    private static IEnumerable<NamedTensor> Trained(GradientBuffer gradients) => gradients.Parameters.Select(p => new NamedTensor(p.Name, p.Parameter));
}
