using System.Globalization;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Analysis;

/// <summary>What to look at.</summary>
public sealed record InspectOptions
{
    /// <summary>Decompose each update; default false.</summary>
    public bool Spectrum { get; init; }

    /// <summary>An adapter to compare directions with; null for none.</summary>
    public AdapterFolder? Against { get; init; }

    /// <summary>The base, for shares and for how the update lies in it; null for none.</summary>
    public ModelSource? Model { get; init; }
}

/// <summary>Explains an adapter from its folder. No update is ever formed: norms and spectra come from the factors.</summary>
public static class AdapterInspector
{
    static AdapterInspector() => NativeRuntime.EnsureLoaded();

    /// <summary>Reads every module once.</summary>
    public static AdapterReport Inspect(AdapterFolder folder, InspectOptions options)
    {
        ArgumentNullException.ThrowIfNull(folder);
        ArgumentNullException.ThrowIfNull(options);
        var modules = new List<ModuleReport>();
        var warnings = new List<string>();
        CheckpointNames? names = options.Model is { } model ? new CheckpointNames(model) : null;
        using var grad = no_grad();
        using var generator = new Generator(0, CPU);
        // Layer 2 before layer 10.
        foreach (string path in AdapterReader.Modules(folder).Order(StringComparer.Create(CultureInfo.InvariantCulture, CompareOptions.NumericOrdering)))
        {
            using var scope = NewDisposeScope();
            using AdapterModule module = AdapterReader.Read(folder, path);
            if (module.A is null)
            {
                continue;
            }

            using Tensor? weight = names is not null
                ? BaseWeight(options.Model!, names, module)
                : null;
            modules.Add(Describe(folder, module, weight, options, generator));
        }

        if (options.Against is { } other && !modules.Any(m => m.Similarity is not null))
        {
            warnings.Add($"{other.Location} adapts none of these modules: nothing to compare.");
        }

        int silent = modules.Count(m => m.NormUpdate == 0);
        if (silent > 0)
        {
            warnings.Add(silent == modules.Count
                ? "The update is zero in every module: this adapter changes nothing."
                : $"The update is zero in {silent} of {modules.Count} modules.");
        }

        foreach (ModuleReport broken in modules.Where(m => !double.IsFinite(m.NormUpdate)))
        {
            warnings.Add($"{broken.Module}: holds NaN or infinite values.");
        }

        long? baseCount = options.Model?.Tensors.Tensors.Values.Sum(t => t.Count);
        long trained = folder.Parts.Sum(p => p.Info.Count);
        return new AdapterReport
        {
            Location = folder.Location,
            BaseModel = folder.Config.BaseModel,
            Variant = VariantOf(folder.Config),
            Targets = folder.Config.TargetModules?.ToString() ?? string.Empty,
            Rank = folder.Config.Rank,
            Alpha = folder.Config.Alpha,
            Dropout = folder.Config.Dropout,
            Modules = modules,
            SavedTensors = [.. folder.Parts.Where(p => p.Part is AdapterPart.Saved or AdapterPart.BaseWeight or AdapterPart.BaseBias or AdapterPart.TokenRows).Select(p => p.Key[AdapterTensor.Prefix.Length..])],
            TrainableParameters = trained,
            BaseParameters = baseCount,
            TrainableShare = baseCount is { } count ? (double)trained / (count + trained) : null,
            Bytes = folder.Parts.Sum(p => p.Info.ByteCount),
            Compression = modules.Count == 0 ? 1 : (double)modules.Sum(m => m.InFeatures * m.OutFeatures) / modules.Sum(m => m.Rank * (m.InFeatures + m.OutFeatures)),
            HardlyMoved = HardlyMoved(modules),
            Warnings = warnings,
        };
    }

    /// <summary>The variant's name, e.g. <c>DoRA, rsLoRA</c>.</summary>
    public static string VariantOf(PeftConfig config)
    {
        ArgumentNullException.ThrowIfNull(config);
        var names = new List<string> { config.UseDora ? "DoRA" : "LoRA" };
        void AddIf(bool condition, string name)
        {
            if (condition)
            {
                names.Add(name);
            }
        }

        AddIf(config.UseRsLora, "rsLoRA");
        AddIf(config.LoraBias, "lora_bias");
        AddIf(config.Bias != "none", $"bias {config.Bias}");
        AddIf(config.ModulesToSave is { Count: > 0 }, "modules_to_save");
        AddIf(config.TargetParameters is { Count: > 0 }, "target_parameters");
        AddIf(config.TrainableTokens is not null, "trainable tokens");
        AddIf(config.ChangesBase, config.InitLoraWeights);
        return string.Join(", ", names);
    }

    private static ModuleReport Describe(AdapterFolder folder, AdapterModule module, Tensor? weight, InspectOptions options, Generator generator)
    {
        (long k, long f, int r) = (module.A!.shape[1], module.B!.shape[0], module.Rank);
        double norm = UpdateNorm(module);
        SpectrumReport? spectrum = null;
        SimilarityReport? similarity = null;
        if ((options.Spectrum || options.Against is not null) && double.IsFinite(norm) && module.Experts == 0)
        {
            using UpdateSpectrum mine = UpdateSpectrum.Of(module);
            spectrum = options.Spectrum ? mine.Report(weight, generator) : null;
            similarity = options.Against is { } other ? Compare(mine, module, other) : null;
        }

        return new ModuleReport
        {
            Module = module.Name,
            Kind = module.IsEmbedding ? "embedding" : module.Experts > 0 ? $"{module.Experts} experts" : "linear",
            Rank = r,
            Alpha = PeftMatching.AlphaOf(folder.Config, module.Name),
            Scaling = module.Scaling,
            InFeatures = k,
            OutFeatures = f,
            Parameters = module.Parts.Where(p => p.Part is not (AdapterPart.BaseWeight or AdapterPart.BaseBias)).Sum(p => p.Value.NumberOfElements),
            Compression = (double)k * f / (r * (k + f)),
            NormA = Norm(module.A),
            NormB = Norm(module.B),
            NormUpdate = norm,
            RelativeUpdate = weight is null ? null : norm / Norm(weight),
            Spectrum = spectrum,
            Similarity = similarity,
        };
    }

    private static SimilarityReport? Compare(UpdateSpectrum mine, AdapterModule module, AdapterFolder other)
    {
        if (!other.Parts.Any(p => p.Module == module.Name && p.Part is AdapterPart.LoraA or AdapterPart.EmbeddingA))
        {
            return null;
        }

        using AdapterModule theirs = AdapterReader.Read(other, module.Name);
        if (theirs.A is null || theirs.A.shape[1] != module.A!.shape[1] || theirs.B!.shape[0] != module.B!.shape[0])
        {
            throw new LoraSharpException($"{module.Name}: the two adapters belong to bases of different shapes, [{module.B!.shape[0]}, {module.A!.shape[1]}] and [{theirs.B?.shape[0]}, {theirs.A?.shape[1]}].");
        }

        using UpdateSpectrum spectrum = UpdateSpectrum.Of(theirs);
        return mine.Compare(spectrum);
    }

    private static double UpdateNorm(AdapterModule module)
    {
        using var scope = NewDisposeScope();
        double square = module.Experts == 0
            ? SquaredNorm(module.A!, module.B!)
            : Enumerable.Range(0, module.Experts).Select(module.OfExpert).Sum(e => SquaredNorm(e.A, e.B));
        return Math.Abs(module.Scaling) * Math.Sqrt(Math.Max(0, square));
    }

    // ‖B·A‖² = ⟨BᵀB, AAᵀ⟩: r × r numbers.
    private static double SquaredNorm(Tensor a, Tensor b)
    {
        using var scope = NewDisposeScope();
        (Tensor left, Tensor right) = (b.to(ScalarType.Float64), a.to(ScalarType.Float64));
        return left.t().mm(left).mul(right.mm(right.t())).sum().item<double>();
    }

    private static double Norm(Tensor tensor)
    {
        using Tensor norm = linalg.norm(tensor);
        return norm.item<float>();
    }

    private static Tensor? BaseWeight(ModelSource model, CheckpointNames names, AdapterModule module)
    {
        if (module.Experts > 0 || names.Find(module.Name + ".weight") is not { } name)
        {
            return null;
        }

        using Tensor stored = TensorBytes.ToTensor(model.Tensors.Read(name), null, CPU);
        using Tensor weight = stored.to(ScalarType.Float32, copy: true);
        Tensor oriented = (module.IsEmbedding || names.IsTransposed(module.Name) ? weight.t() : weight).contiguous().alias();
        if (oriented.shape[0] != module.B!.shape[0] || oriented.shape[1] != module.A!.shape[1])
        {
            throw new LoraSharpException($"{module.Name}: the adapter's update is [{module.B.shape[0]}, {module.A!.shape[1]}], the model's weight [{oriented.shape[0]}, {oriented.shape[1]}]. It belongs to another base.");
        }

        return oriented;
    }

    private static List<string> HardlyMoved(List<ModuleReport> modules)
    {
        double[] sizes = [.. modules.Select(m => m.NormUpdate / Math.Sqrt((double)m.InFeatures * m.OutFeatures))];
        double median = sizes.Length == 0 ? 0 : sizes.Order().ElementAt(sizes.Length / 2);
        return [.. modules.Where((_, i) => sizes[i] < median / 10).Select(m => m.Module)];
    }
}
