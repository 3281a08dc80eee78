using System.ComponentModel;

namespace LoraSharp.Recipes;

/// <summary>What a run writes besides <c>metrics.jsonl</c>, <c>loss.png</c> and the model card.</summary>
public sealed record ReportRecipe
{
    /// <summary>TensorBoard.</summary>
    [Description("Write event files that TensorBoard shows, into tensorboard/ in the run folder.")]
    public bool Tensorboard { get; init; }
}
