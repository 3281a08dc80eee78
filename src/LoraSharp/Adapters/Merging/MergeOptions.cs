using LoraSharp.Formats;

namespace LoraSharp.Adapters.Merging;

/// <summary>An adapter to be merged and the factor on what it changes.</summary>
/// <param name="Folder">The adapter.</param>
/// <param name="Weight">1 for as it was trained.</param>
public readonly record struct MergedAdapter(Formats.Peft.AdapterFolder Folder, double Weight = 1);

/// <summary>Settings of <see cref="AdapterMerger"/>.</summary>
public sealed record MergeOptions
{
    /// <summary>Take the adapters out of a merged model instead of putting them in; default false.</summary>
    public bool Unmerge { get; init; }

    /// <summary>Merge adapters that were made on another base with a note instead of an error; default false. Taking out never asks.</summary>
    public bool AcceptOtherBases { get; init; }

    /// <summary>Type to store floating-point tensors in; null keeps each tensor's own.</summary>
    public ElementType? StoredType { get; init; }
}

/// <summary>What merging did, in numbers.</summary>
public sealed record MergeReport
{
    /// <summary>Tensors that were changed.</summary>
    public required int Changed { get; init; }

    /// <summary>Tensors of the checkpoint.</summary>
    public required int Tensors { get; init; }

    /// <summary>Frobenius norm of the whole change ‖W' − W‖.</summary>
    public required double UpdateNorm { get; init; }

    /// <summary>Norm of what rounding to the stored type took away, over <see cref="UpdateNorm"/>; 0 for float32.</summary>
    public required double RoundingLoss { get; init; }

    /// <summary>Share of the weights with a change that kept their value bit by bit, because the change was below half a step of the stored type.</summary>
    public required double LostToRounding { get; init; }

    /// <summary>Types of the changed tensors as stored.</summary>
    public required IReadOnlyList<ElementType> StoredTypes { get; init; }

    /// <summary>What the user should know.</summary>
    public required IReadOnlyList<string> Notes { get; init; }
}
