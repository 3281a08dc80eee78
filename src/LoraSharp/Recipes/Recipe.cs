using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>
/// Everything a fine-tune is told, from one YAML file: each setting has one name, one default and one description,
/// used by the file, by the flags of <c>lora train</c> and by the documentation. Keys are the property names in
/// snake_case. Immutable; made by <see cref="RecipeReader"/>.
/// </summary>
public sealed record Recipe
{
    /// <summary>Model.</summary>
    [Description("The base model: a Hugging Face folder, a .gguf file or a hub name (org/name[@revision]).")]
    [Required]
    public string Model { get; init; } = "";

    /// <summary>Method.</summary>
    [Description("lora (frozen base as stored), qlora (frozen base in 4 bits), full (every weight trains).")]
    [AllowedValues("lora", "qlora", "full")]
    public string Method { get; init; } = "lora";

    /// <summary>Compute type.</summary>
    [Description("Type the base computes in: float32, bfloat16, or auto (float32 on a CPU, bfloat16 on a GPU). Adapters always train in float32.")]
    [AllowedValues("auto", "float32", "bfloat16")]
    public string Dtype { get; init; } = "auto";

    /// <summary>Device.</summary>
    [Description("cpu, cuda[:n] or auto (the first GPU there is).")]
    public string Device { get; init; } = "auto";

    /// <summary>Family override.</summary>
    [Description("Treat the model as this family, whatever config.json calls it.")]
    public string? ModelType { get; init; }

    /// <summary>The low-rank update.</summary>
    public AdapterRecipe Adapter { get; init; } = new();

    /// <summary>What is learned from.</summary>
    public DataRecipe Data { get; init; } = new();

    /// <summary>How it is learned.</summary>
    public TrainingRecipe Training { get; init; } = new();

    /// <summary>Learning from preferences instead of texts.</summary>
    public PreferenceRecipe Preference { get; init; } = new();

    /// <summary>Learning from rewards instead of texts.</summary>
    public GrpoRecipe Grpo { get; init; } = new();

    /// <summary>What is written besides the usual.</summary>
    public ReportRecipe Report { get; init; } = new();

    /// <summary>How the base is quantised.</summary>
    public QuantizationRecipe Quantization { get; init; } = new();

    /// <summary>What a sweep varies.</summary>
    public SweepRecipe Sweep { get; init; } = new();

    /// <summary>Output.</summary>
    [Description("The run folder: adapter, model card, metrics, plot, checkpoints.")]
    [Required]
    public string Output { get; init; } = "";

    /// <summary>Overwrite.</summary>
    [Description("Start over in an output folder that already holds a finished run. Without it, a run that was cut off is resumed and a finished one is an error.")]
    public bool Overwrite { get; init; }
}
