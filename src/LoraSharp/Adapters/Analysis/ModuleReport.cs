namespace LoraSharp.Adapters.Analysis;

/// <summary>What one module of an adapter is and does.</summary>
public sealed record ModuleReport
{
    /// <summary>Path.</summary>
    public required string Module { get; init; }

    /// <summary>linear or embedding.</summary>
    public required string Kind { get; init; }

    /// <summary>r.</summary>
    public required int Rank { get; init; }

    /// <summary>Alpha.</summary>
    public required double Alpha { get; init; }

    /// <summary>Factor on B·A.</summary>
    public required double Scaling { get; init; }

    /// <summary>k.</summary>
    public required long InFeatures { get; init; }

    /// <summary>f.</summary>
    public required long OutFeatures { get; init; }

    /// <summary>Elements of A, B and what else the variant trains.</summary>
    public required long Parameters { get; init; }

    /// <summary>Elements of the full matrix over those of the factors.</summary>
    public required double Compression { get; init; }

    /// <summary>‖A‖, Frobenius.</summary>
    public required double NormA { get; init; }

    /// <summary>‖B‖, Frobenius.</summary>
    public required double NormB { get; init; }

    /// <summary>‖ΔW‖ = scaling·‖B·A‖, Frobenius.</summary>
    public required double NormUpdate { get; init; }

    /// <summary>‖ΔW‖ / ‖W‖; null without the base.</summary>
    public double? RelativeUpdate { get; init; }

    /// <summary>Details that <c>--spectrum</c> adds.</summary>
    public SpectrumReport? Spectrum { get; init; }

    /// <summary>Comparison that <c>--against</c> adds.</summary>
    public SimilarityReport? Similarity { get; init; }
}

/// <summary>The singular values of an update.</summary>
public sealed record SpectrumReport
{
    /// <summary>σ₁ ≥ σ₂ ≥ ... of ΔW.</summary>
    public required IReadOnlyList<double> SingularValues { get; init; }

    /// <summary>exp(H) of the energies σᵢ²/Σσ² (Roy and Vetterli 2007): how many directions are really used.</summary>
    public required double EffectiveRank { get; init; }

    /// <summary>‖ΔW‖²_F / σ₁².</summary>
    public required double StableRank { get; init; }

    /// <summary>Share of the energy in the first i directions, i = 1, 2, ...</summary>
    public required IReadOnlyList<double> EnergyByRank { get; init; }

    /// <summary>‖ΔW‖ / ‖Uᵀ·W·V‖ with the update's own directions U, V (LoRA paper, section 7.3); null without the base.</summary>
    public double? AmplificationFactor { get; init; }

    /// <summary>‖Uᵀ·ΔW·V‖ / ‖ΔW‖ with the first r directions U, V of W: how much of the update lies where W is strongest; null without the base.</summary>
    public double? InTopOfBase { get; init; }
}

/// <summary>How alike the directions of two updates are (LoRA paper, section 7.2).</summary>
public sealed record SimilarityReport
{
    /// <summary>φ = ‖VᵢᵀVⱼ‖² / min(i, j) over all directions of the inputs (rows of A), 0 to 1.</summary>
    public required double Input { get; init; }

    /// <summary>The same over the outputs (columns of B).</summary>
    public required double Output { get; init; }

    /// <summary>φ(i, j) of the inputs for the first directions of each, i down, j across.</summary>
    public required IReadOnlyList<IReadOnlyList<double>> InputGrid { get; init; }

    /// <summary>⟨ΔW₁, ΔW₂⟩ / (‖ΔW₁‖·‖ΔW₂‖): 1 when both change the same way, -1 opposite.</summary>
    public required double Cosine { get; init; }
}

/// <summary>An adapter in numbers.</summary>
public sealed record AdapterReport
{
    /// <summary>Folder or file.</summary>
    public required string Location { get; init; }

    /// <summary>Name of the base as recorded.</summary>
    public string? BaseModel { get; init; }

    /// <summary>LoRA, DoRA, rsLoRA, ... as they combine.</summary>
    public required string Variant { get; init; }

    /// <summary>Targets as configured.</summary>
    public required string Targets { get; init; }

    /// <summary>Rank as configured.</summary>
    public required int Rank { get; init; }

    /// <summary>Alpha as configured.</summary>
    public required double Alpha { get; init; }

    /// <summary>Dropout as configured.</summary>
    public required double Dropout { get; init; }

    /// <summary>Modules with factors.</summary>
    public required IReadOnlyList<ModuleReport> Modules { get; init; }

    /// <summary>Names of tensors saved in full.</summary>
    public required IReadOnlyList<string> SavedTensors { get; init; }

    /// <summary>Trained elements in all.</summary>
    public required long TrainableParameters { get; init; }

    /// <summary>Elements of the base; null without it.</summary>
    public long? BaseParameters { get; init; }

    /// <summary>Trained share of base and adapter together; null without the base.</summary>
    public double? TrainableShare { get; init; }

    /// <summary>Bytes of the weights as stored.</summary>
    public required long Bytes { get; init; }

    /// <summary>Elements of all adapted matrices over those of their factors.</summary>
    public required double Compression { get; init; }

    /// <summary>Modules whose update is below a tenth of the median's, relative to their size.</summary>
    public required IReadOnlyList<string> HardlyMoved { get; init; }

    /// <summary>What the user should know: B all zero, values that aren't finite.</summary>
    public required IReadOnlyList<string> Warnings { get; init; }
}
