using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>One source of training rows.</summary>
public sealed record DataSourceRecipe
{
    /// <summary>Path.</summary>
    [Description("File or folder.")]
    [Required]
    public string Path { get; init; } = "";

    /// <summary>Weight.</summary>
    [Description("How often its rows are drawn beside the other sources'.")]
    [Range(1e-6, 1e6)]
    public double Weight { get; init; } = 1;

    /// <summary>Format.</summary>
    [Description("As data.format, for this source.")]
    public string? Format { get; init; }

    /// <summary>Columns.</summary>
    [Description("As data.columns, for this source.")]
    public IReadOnlyDictionary<string, string>? Columns { get; init; }

    /// <summary>Limit.</summary>
    [Description("At most this many rows; 0 for all.")]
    [Range(0, int.MaxValue)]
    public int MaxSamples { get; init; }
}
