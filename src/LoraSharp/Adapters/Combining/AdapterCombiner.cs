using System.Globalization;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Combining;

/// <summary>An adapter that goes into a combination.</summary>
/// <param name="Folder">The adapter.</param>
/// <param name="Weight">Its weight, any sign.</param>
public readonly record struct CombinedAdapter(AdapterFolder Folder, double Weight);

/// <summary>
/// Makes one adapter of several, by PEFT's <c>add_weighted_adapter</c> number for number. The result has scaling 1.
/// </summary>
public static class AdapterCombiner
{
    static AdapterCombiner() => NativeRuntime.EnsureLoaded();

    /// <summary>Combines and writes a folder.</summary>
    /// <param name="adapters">At least one; of one base.</param>
    /// <param name="options">How.</param>
    /// <param name="output">Must not exist, or be empty.</param>
    /// <returns>What the user should know: what was carried over, how much a cut lost.</returns>
    /// <exception cref="LoraSharpException">Adapters or settings that don't go together; the values found are named.</exception>
    public static IReadOnlyList<string> Combine(IReadOnlyList<CombinedAdapter> adapters, CombineOptions options, string output)
    {
        ArgumentNullException.ThrowIfNull(adapters);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        OutputFolder.RequireFree(output);
        // One adapter can only be scaled.
        CombineMethod method = adapters.Count == 1 ? CombineMethod.Linear : options.Method;
        var notes = new List<string>();
        Check(adapters, method, options.AcceptOtherBases, notes);
        int rank = NewRank(adapters, options with { Method = method });
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)options.Seed, CPU);
        var combination = new Combination(options with { Method = method }, rank, generator);
        var tensors = new List<(string, Tensor)>();
        var ranks = new Dictionary<string, int>(StringComparer.Ordinal);
        foreach (string path in adapters.SelectMany(a => AdapterReader.Modules(a.Folder)).Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal))
        {
            using var inner = NewDisposeScope();
            var inputs = new List<(AdapterModule Module, double Weight)>();
            try
            {
                foreach ((AdapterFolder folder, double weight) in adapters)
                {
                    AdapterModule module = AdapterReader.Read(folder, path);
                    if (module.A is null)
                    {
                        module.Dispose();
                    }
                    else
                    {
                        inputs.Add((module, weight));
                    }
                }

                if (inputs.Count == 0)
                {
                    continue;
                }

                CheckShapes(path, inputs);
                (Tensor a, Tensor b) = combination.Of(inputs);
                bool embedding = inputs[0].Module.IsEmbedding;
                tensors.Add((AdapterTensor.KeyOf(path, embedding ? AdapterPart.EmbeddingA : AdapterPart.LoraA), a.MoveToOuterDisposeScope()));
                tensors.Add((AdapterTensor.KeyOf(path, embedding ? AdapterPart.EmbeddingB : AdapterPart.LoraB), b.MoveToOuterDisposeScope()));
                if (a.shape[0] != rank)
                {
                    ranks[path] = (int)a.shape[0];
                }
            }
            finally
            {
                inputs.ForEach(i => i.Module.Dispose());
            }
        }

        PeftConfig config = NewConfig(adapters, rank, ranks);
        config = CarryOver(adapters, config, tensors, notes);
        AdapterFolderWriter.Write(output, config, tensors, metadata: BaseFingerprint.Read(adapters[0].Folder.Metadata)?.ToMetadata());
        if (combination.LargestLoss > 0)
        {
            notes.Add(string.Create(CultureInfo.InvariantCulture, $"Cutting to rank {rank} lost at most {combination.LargestLoss:P1} of a matrix's norm."));
        }

        return notes;
    }

    private static void Check(IReadOnlyList<CombinedAdapter> adapters, CombineMethod method, bool anyBase, List<string> notes)
    {
        var faults = new List<string>();
        if (adapters.Count == 0)
        {
            faults.Add("no adapter was given");
        }

        foreach ((AdapterFolder folder, double weight) in adapters)
        {
            if (!double.IsFinite(weight))
            {
                faults.Add($"{folder.Location}: the weight must be a number, found {weight}");
            }

            if (folder.Config.UseDora)
            {
                faults.Add($"{folder.Location}: DoRA's magnitudes belong to one update and can't be combined; merge it into its base and extract an adapter");
            }

            if (folder.Config.ChangesBase)
            {
                faults.Add($"{folder.Location}: its factors ({folder.Config.InitLoraWeights}) belong to a residual base; convert it to plain LoRA first (lora convert)");
            }

            if (folder.Config.TargetParameters is { Count: > 0 })
            {
                faults.Add($"{folder.Location}: target_parameters ({string.Join(", ", folder.Config.TargetParameters)}) are combined by no method; merge the adapters one after the other with weights (lora merge --adapter PATH=WEIGHT)");
            }

            if (folder.Config.LoraBias)
            {
                faults.Add($"{folder.Location}: lora_bias is not combined by any method");
            }
        }

        if (DifferentBases(adapters) is { } bases)
        {
            string fault = $"they belong to different bases: {bases}. What one of them learned means nothing over the other's weights";
            (anyBase ? notes : faults).Add(anyBase ? fault + "." : fault + " (--any-base combines them all the same)");
        }

        if (method is not (CombineMethod.Cat or CombineMethod.Svd or CombineMethod.TiesSvd or CombineMethod.DareLinearSvd or CombineMethod.DareTiesSvd or CombineMethod.MagnitudePruneSvd)
            && adapters.Select(a => LargestRank(a.Folder)).Distinct().Count() > 1)
        {
            faults.Add($"{CombineOptions.NameOf(method)} adds the factors, so ranks must be equal; found {string.Join(", ", adapters.Select(a => $"{a.Folder.Location}: {LargestRank(a.Folder)}"))}. Use cat or svd");
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException($"These adapters can't be combined:\n  {string.Join("\n  ", faults)}");
        }
    }

    // What was recorded of the weights decides; where nothing was, names (a path or a hub's, of which the end counts) and
    // what the list of layers is called.
    private static string? DifferentBases(IReadOnlyList<CombinedAdapter> adapters)
    {
        BaseFingerprint?[] recorded = [.. adapters.Select(a => BaseFingerprint.Read(a.Folder.Metadata))];
        bool allRecorded = recorded.All(r => r is not null);
        bool differ = allRecorded
            ? adapters.Any(a => recorded[0]!.Compare(a.Folder.Metadata) is { IsCertain: true })
            : adapters.Select(a => a.Folder.Config.BaseModel).OfType<string>().Select(Ending).Distinct(StringComparer.Ordinal).Count() > 1
                || adapters.Select(a => LayersOf(a.Folder)).OfType<string>().Distinct(StringComparer.Ordinal).Count() > 1;
        return !differ ? null : string.Join(", ", adapters.Select((a, i) =>
            $"{a.Folder.Location} on {a.Folder.Config.BaseModel ?? "an unnamed one"}{(allRecorded || LayersOf(a.Folder) is not { } layers ? string.Empty : $" with {layers}")}{(allRecorded ? $" (shapes {recorded[i]!.Shapes[..8]}, weights {(recorded[i]!.Data.Length > 0 ? recorded[i]!.Data[..8] : "not recorded")})" : string.Empty)}"));
    }

    // model.layers of model.layers.0.mlp.up_proj; null where no module is in a list.
    private static string? LayersOf(AdapterFolder folder) => folder.Parts.Select(p => p.Module.Split('.'))
        .Select(p => string.Join('.', p.TakeWhile(s => !s.All(char.IsAsciiDigit))) is { } root && root.Length < string.Join('.', p).Length ? root : null).FirstOrDefault(r => r is not null);

    private static string Ending(string name) => Path.GetFileName(Path.TrimEndingDirectorySeparator(name.Split('@')[0]));

    private static void CheckShapes(string path, List<(AdapterModule Module, double Weight)> inputs)
    {
        (long K, long F)[] sizes = [.. inputs.Select(i => (i.Module.A!.shape[1], i.Module.B!.shape[0])).Distinct()];
        if (sizes.Length > 1)
        {
            throw new LoraSharpException($"{path}: the adapters belong to bases of different shapes: updates of {string.Join(" and ", sizes.Select(s => $"[{s.F}, {s.K}]"))}.");
        }
    }

    private static int LargestRank(AdapterFolder folder) => folder.Config.RankPattern.Values.Append(folder.Config.Rank).Max();

    private static int NewRank(IReadOnlyList<CombinedAdapter> adapters, CombineOptions options)
    {
        int[] ranks = [.. adapters.Select(a => LargestRank(a.Folder))];
        return options.Method == CombineMethod.Cat ? ranks.Sum() : options.Cuts ? options.Rank ?? ranks.Max() : ranks[0];
    }

    private static PeftConfig NewConfig(IReadOnlyList<CombinedAdapter> adapters, int rank, Dictionary<string, int> ranks)
    {
        ModuleSelector[] targets = [.. adapters.Select(a => a.Folder.Config.TargetModules).OfType<ModuleSelector>()];
        ModuleSelector? all = targets.Length == 0 ? null
            : targets.All(t => t.Pattern is null) ? ModuleSelector.List(targets.SelectMany(t => t.Names))
            : targets.All(t => t.Pattern is not null) ? ModuleSelector.Regex(string.Join("|", targets.Select(t => $"({t.Pattern})").Distinct(StringComparer.Ordinal)))
            : throw new LoraSharpException("Some of the adapters target modules by a list and some by a regular expression, which have no common form. Convert one of them.");
        PeftConfig first = adapters[0].Folder.Config;
        // Restrictions of single adapters are lifted: what the union targets is what the file holds.
        bool restricted = adapters.Any(a => a.Folder.Config.LayersToTransform is { Count: > 0 } || a.Folder.Config.ExcludeModules is not null);
        if (restricted)
        {
            all = ModuleSelector.List(adapters.SelectMany(a => a.Folder.Parts.Where(p => p.Part is AdapterPart.LoraA or AdapterPart.EmbeddingA).Select(p => p.Module)));
        }

        return first with
        {
            Rank = rank,
            Alpha = rank,
            TargetModules = all,
            ExcludeModules = restricted ? null : first.ExcludeModules,
            LayersToTransform = restricted ? null : first.LayersToTransform,
            LayersPattern = restricted ? null : first.LayersPattern,
            RankPattern = ranks,
            AlphaPattern = ranks.ToDictionary(p => p.Key, p => (double)p.Value, StringComparer.Ordinal),
            UseRsLora = false,
            InitLoraWeights = "true",
        };
    }

    // Modules saved in full, biases and token rows have no factors to combine: one adapter's are kept, two clash.
    private static PeftConfig CarryOver(IReadOnlyList<CombinedAdapter> adapters, PeftConfig config, List<(string, Tensor)> tensors, List<string> notes)
    {
        var owners = new Dictionary<string, AdapterFolder>(StringComparer.Ordinal);
        foreach (AdapterFolder folder in adapters.Select(a => a.Folder))
        {
            foreach (AdapterTensor part in folder.Parts.Where(p => p.Part is AdapterPart.Saved or AdapterPart.BaseBias or AdapterPart.BaseWeight or AdapterPart.TokenRows))
            {
                if (!owners.TryAdd(part.Key, folder))
                {
                    throw new LoraSharpException($"{part.Key} is in {owners[part.Key].Location} and in {folder.Location}: what is saved in full can't be combined.");
                }

                tensors.Add((part.Key, AdapterReader.Float(folder, part.Key)));
            }
        }

        AdapterFolder[] givers = [.. owners.Values.Distinct()];
        if (givers.Length == 0)
        {
            return config with { ModulesToSave = null, TrainableTokens = null, Bias = "none" };
        }

        notes.Add($"{owners.Count} tensors saved in full are taken as they are from {string.Join(", ", givers.Select(g => g.Location))}; weights do not apply to them.");
        string[] saved = [.. givers.SelectMany(g => g.Config.ModulesToSave ?? []).Distinct(StringComparer.Ordinal)];
        return config with
        {
            ModulesToSave = saved.Length > 0 ? saved : null,
            TrainableTokens = givers.Select(g => g.Config.TrainableTokens).FirstOrDefault(t => t is not null),
            Bias = givers.Select(g => g.Config.Bias).FirstOrDefault(b => b != "none") ?? "none",
        };
    }
}
