using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Adapters.Analysis;

/// <summary>A kind of tensors in a model, e.g. all <c>q_proj.weight</c>.</summary>
/// <param name="Name">The path with layer numbers taken out.</param>
/// <param name="Count">How many there are.</param>
/// <param name="Shape">Shape of the first.</param>
/// <param name="Parameters">Elements of all.</param>
/// <param name="LoraParameters">Elements that factors of the asked rank would have; 0 for what is no matrix.</param>
public sealed record TensorKind(string Name, int Count, IReadOnlyList<long> Shape, long Parameters, long LoraParameters);

/// <summary>A model in numbers.</summary>
public sealed record ModelReport
{
    /// <summary>Folder or file.</summary>
    public required string Location { get; init; }

    /// <summary><c>model_type</c>.</summary>
    public required string Type { get; init; }

    /// <summary>Elements in all.</summary>
    public required long Parameters { get; init; }

    /// <summary>Bytes as stored.</summary>
    public required long Bytes { get; init; }

    /// <summary>Elements by stored type.</summary>
    public required IReadOnlyDictionary<string, long> Types { get; init; }

    /// <summary>Kinds of tensors, largest first.</summary>
    public required IReadOnlyList<TensorKind> Kinds { get; init; }

    /// <summary>Elements of an <c>all-linear</c> adapter of the asked rank.</summary>
    public required long LoraParameters { get; init; }
}

/// <summary>Explains a checkpoint from its headers.</summary>
public static class ModelInspector
{
    /// <summary>Counts; no tensor's data is read.</summary>
    /// <param name="model">The model.</param>
    /// <param name="rank">Rank for which the size of adapters is told.</param>
    public static ModelReport Inspect(ModelSource model, int rank)
    {
        ArgumentNullException.ThrowIfNull(model);
        IReadOnlyCollection<TensorInfo> tensors = [.. model.Tensors.Tensors.Values];
        TensorKind[] kinds = [.. tensors.GroupBy(t => Kind(t.Name), StringComparer.Ordinal)
            .Select(g => new TensorKind(g.Key, g.Count(), g.First().Shape, g.Sum(t => t.Count), g.Sum(t => IsLinear(t) ? rank * t.Shape.Sum() : 0)))
            .OrderByDescending(k => k.Parameters)];
        return new ModelReport
        {
            Location = model.Location,
            Type = model.Config["model_type"] is JsonValue type && type.TryGetValue(out string? name) ? name : "unknown",
            Parameters = tensors.Sum(t => t.Count),
            Bytes = tensors.Sum(t => t.ByteCount),
            Types = tensors.GroupBy(t => t.Type).ToDictionary(g => g.Key.ToString(), g => g.Sum(t => t.Count)),
            Kinds = kinds,
            LoraParameters = kinds.Sum(k => k.LoraParameters),
        };
    }

    private static string Kind(string name) => string.Join('.', name.Split('.').Select(p => p.Length > 0 && p.All(char.IsAsciiDigit) ? "*" : p));

    private static bool IsLinear(TensorInfo tensor) => tensor.Shape.Count == 2 && tensor.Name.EndsWith(".weight", StringComparison.Ordinal)
        && tensor.Name.Split('.').Any(p => p.Length > 0 && p.All(char.IsAsciiDigit));
}
