using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Analysis;

/// <summary>How an adapter is taken out of a full fine-tune.</summary>
public sealed record ExtractOptions
{
    /// <summary>Rank of every matrix, or the most where <see cref="Energy"/> chooses; default 16.</summary>
    public int Rank { get; init; } = 16;

    /// <summary>Share of each difference's energy that its rank must reach, 0 to 1; null to use <see cref="Rank"/> for all.</summary>
    public double? Energy { get; init; }

    /// <summary>Matrices to look at; null for all that differ.</summary>
    public ModuleSelector? Targets { get; init; }

    /// <summary>Keep tensors that are no matrices (norms, biases) and differ as <c>modules_to_save</c>; default false.</summary>
    public bool SaveOthers { get; init; }

    /// <summary>Seed of the randomised decomposition that large matrices get; default 0.</summary>
    public long Seed { get; init; }

    /// <summary>Name of the base to record; null: as the source calls itself.</summary>
    public string? BaseName { get; init; }

    /// <summary>Checks everything and names every fault.</summary>
    public void Validate()
    {
        var faults = new List<string>();
        if (Rank < 1)
        {
            faults.Add($"rank: expected at least 1, found {Rank}");
        }

        if (Energy is <= 0 or > 1 or double.NaN)
        {
            faults.Add($"energy: expected more than 0 and at most 1, found {Energy}");
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException($"The extraction's settings can't be used:\n  {string.Join("\n  ", faults)}");
        }
    }
}

/// <summary>One extracted matrix.</summary>
/// <param name="Module">Path.</param>
/// <param name="Rank">Rank it got.</param>
/// <param name="Norm">‖T − B‖.</param>
/// <param name="RelativeError">‖T − B − ΔW‖ / ‖T − B‖.</param>
/// <param name="Energy">Share of the energy that was kept.</param>
public sealed record ExtractedModule(string Module, int Rank, double Norm, double RelativeError, double Energy);

/// <summary>What extraction found.</summary>
/// <param name="Modules">Matrices in the adapter.</param>
/// <param name="Unchanged">Number of matrices that are equal in both models.</param>
/// <param name="LeftOut">Tensors that differ and are not in the adapter.</param>
/// <param name="RelativeError">Over all matrices together.</param>
public sealed record ExtractReport(IReadOnlyList<ExtractedModule> Modules, int Unchanged, IReadOnlyList<string> LeftOut, double RelativeError);

/// <summary>Makes an adapter out of the difference between a base and a fine-tune of it, by truncated singular values.</summary>
public static class AdapterExtractor
{
    // Up to here the full decomposition takes a tenth of a second; of 576 × 1536 it takes half of one, 210 times for SmolLM2.
    private const long LargestExact = 512;

    private static readonly string[] Embeddings = ["embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "tok_embeddings", "embed_positions"];

    static AdapterExtractor() => NativeRuntime.EnsureLoaded();

    /// <summary>Extracts and writes a folder, in the memory of a few copies of the largest matrix.</summary>
    /// <param name="baseModel">B.</param>
    /// <param name="tuned">T, with the same tensors.</param>
    /// <param name="output">Must not exist, or be empty.</param>
    /// <param name="options">How.</param>
    /// <param name="progress">Told each matrix when it is done.</param>
    public static ExtractReport Extract(ModelSource baseModel, ModelSource tuned, string output, ExtractOptions options, Action<ExtractedModule>? progress = null)
    {
        ArgumentNullException.ThrowIfNull(baseModel);
        ArgumentNullException.ThrowIfNull(tuned);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        OutputFolder.RequireFree(output);
        RequireSameTensors(baseModel, tuned);
        var names = new CheckpointNames(baseModel);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)options.Seed, CPU);
        var tensors = new List<(string, Tensor)>();
        var modules = new List<ExtractedModule>();
        var others = new List<string>();
        var ranks = new Dictionary<string, int>(StringComparer.Ordinal);
        int unchanged = 0;
        foreach (TensorInfo info in baseModel.Tensors.Tensors.Values.Where(t => AdapterMerger.IsFloat(t.Type)).OrderBy(t => t.Name, StringComparer.Ordinal))
        {
            using var inner = NewDisposeScope();
            string path = info.Name[..Math.Max(0, info.Name.LastIndexOf('.'))];
            Tensor difference = Float(tuned, info.Name) - Float(baseModel, info.Name);
            bool matrix = info.Shape.Count == 2 && info.Name.EndsWith(".weight", StringComparison.Ordinal);
            if (difference.count_nonzero().item<long>() == 0)
            {
                unchanged += matrix ? 1 : 0;
                continue;
            }

            if (!matrix || (options.Targets is { IsAllLinear: false } targets && !targets.Matches(path)))
            {
                others.Add(info.Name);
                continue;
            }

            bool embedding = Embeddings.Any(e => path == e || path.EndsWith("." + e, StringComparison.Ordinal));
            (Tensor a, Tensor b, ExtractedModule report) = Truncate(path, embedding || names.IsTransposed(path) ? difference.t() : difference, options, generator);
            tensors.Add((AdapterTensor.KeyOf(path, embedding ? AdapterPart.EmbeddingA : AdapterPart.LoraA), a.MoveToOuterDisposeScope()));
            tensors.Add((AdapterTensor.KeyOf(path, embedding ? AdapterPart.EmbeddingB : AdapterPart.LoraB), b.MoveToOuterDisposeScope()));
            modules.Add(report);
            ranks[path] = report.Rank;
            progress?.Invoke(report);
        }

        if (modules.Count == 0)
        {
            throw new LoraSharpException($"{tuned.Location} and {baseModel.Location} do not differ in any matrix{(options.Targets is null ? string.Empty : $" that '{options.Targets}' matches")}: there is nothing to extract.");
        }

        string[] saved = options.SaveOthers ? [.. others] : [];
        foreach (string name in saved)
        {
            tensors.Add((AdapterTensor.Prefix + name, Float(tuned, name)));
        }

        int rank = ranks.Values.Max();
        AdapterFolderWriter.Write(output, Config(options, baseModel, rank, ranks, saved, names), tensors, metadata: BaseFingerprint.Of(baseModel.Tensors).ToMetadata());
        double error = modules.Sum(m => m.Norm * m.Norm * m.RelativeError * m.RelativeError);
        return new(modules, unchanged, [.. others.Except(saved)], Math.Sqrt(error / modules.Sum(m => m.Norm * m.Norm)));
    }

    // ΔW ≈ (U·√σ)·(√σ·Vᵀ): balanced factors can be trained on, lopsided ones can't.
    internal static (Tensor A, Tensor B, ExtractedModule Report) Truncate(string path, Tensor difference, ExtractOptions options, Generator generator)
    {
        long least = Math.Min(difference.shape[0], difference.shape[1]);
        double total = difference.square().sum(ScalarType.Float64).item<double>();
        int wanted = (int)Math.Min(options.Rank, least);
        (Tensor u, Tensor s, Tensor vt) = least <= LargestExact || wanted * 4 >= least
            ? linalg.svd(difference, fullMatrices: false)
            : LowRankSvd.Randomised(difference, (int)Math.Min(least, wanted + 16), 6, generator);
        double[] energies = [.. s.to(ScalarType.Float64).square().data<double>()];
        int rank = wanted;
        if (options.Energy is { } share)
        {
            double sum = 0;
            rank = 0;
            while (rank < wanted && sum < share * total)
            {
                sum += energies[rank++];
            }

            rank = Math.Max(1, rank);
        }

        Tensor root = s.narrow(0, 0, rank).sqrt();
        Tensor a = vt.narrow(0, 0, rank) * root.unsqueeze(1);
        Tensor b = u.narrow(1, 0, rank) * root.unsqueeze(0);
        double kept = energies.Take(rank).Sum();
        double left = (difference - b.mm(a)).square().sum(ScalarType.Float64).item<double>();
        return (a, b, new(path, rank, Math.Sqrt(total), Math.Sqrt(left / total), Math.Min(1, kept / total)));
    }

    private static PeftConfig Config(ExtractOptions options, ModelSource baseModel, int rank, Dictionary<string, int> ranks, string[] saved, CheckpointNames names)
    {
        Dictionary<string, int> pattern = ranks.Where(r => r.Value != rank).ToDictionary(r => r.Key.Replace(".", "\\.", StringComparison.Ordinal), r => r.Value, StringComparer.Ordinal);
        return new PeftConfig
        {
            BaseModel = options.BaseName ?? baseModel.Name,
            Rank = rank,
            Alpha = rank,
            RankPattern = pattern,
            AlphaPattern = pattern.ToDictionary(p => p.Key, p => (double)p.Value, StringComparer.Ordinal),
            TargetModules = ModuleSelector.List(ranks.Keys),
            ModulesToSave = saved.Length == 0 ? null : [.. saved.Select(n => n[..n.LastIndexOf('.')]).Distinct(StringComparer.Ordinal)],
            FanInFanOut = ranks.Keys.Any(names.IsTransposed),
        };
    }

    private static Tensor Float(ModelSource model, string name)
    {
        using Tensor stored = TensorBytes.ToTensor(model.Tensors.Read(name), null, CPU);
        return stored.to(ScalarType.Float32, copy: true);
    }

    private static void RequireSameTensors(ModelSource baseModel, ModelSource tuned)
    {
        List<string> faults = [];
        foreach ((string name, TensorInfo info) in baseModel.Tensors.Tensors.OrderBy(t => t.Key, StringComparer.Ordinal))
        {
            if (!tuned.Tensors.Tensors.TryGetValue(name, out TensorInfo? other))
            {
                faults.Add($"{name} {info.ShapeText} is only in the base");
            }
            else if (!other.Shape.SequenceEqual(info.Shape))
            {
                faults.Add($"{name} is {info.ShapeText} in the base and {other.ShapeText} in the fine-tune");
            }
        }

        faults.AddRange(tuned.Tensors.Tensors.Keys.Except(baseModel.Tensors.Tensors.Keys).Order(StringComparer.Ordinal).Select(n => $"{n} is only in the fine-tune"));
        if (faults.Count > 0)
        {
            throw new LoraSharpException($"{tuned.Location} is no fine-tune of {baseModel.Location} ({faults.Count} differences):\n  {string.Join("\n  ", faults.Take(20))}");
        }
    }
}
