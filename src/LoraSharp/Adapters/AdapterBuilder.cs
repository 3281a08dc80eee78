using LoraSharp.Adapters.Initialization;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>Makes a new adapter over the layers of a set.</summary>
internal sealed class AdapterBuilder(AdapterSet set)
{
    private readonly List<string> _warnings = [];

    public LoraAdapter Build(string name, LoraOptions options, long seed, string? baseModel, InputDirections? directions)
    {
        options.Validate();
        if (options.Init == "eva" && directions is null)
        {
            throw new LoraSharpException("init eva: starts from what the layers see of the training data; give InputDirections that have watched some (lora train does).");
        }

        PeftConfig config = Resolve(options.ToConfig(baseModel));
        config = directions?.Distribute(config) ?? config;
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using var generator = new Generator((ulong)seed, CPU);
        var adapter = new LoraAdapter(name, config, trainable: true) { RankDropout = options.RankDropout };
        try
        {
            AddFactors(adapter, new FactorInitializer(generator, options.Init, directions));
            AddExperts(adapter, new FactorInitializer(generator, options.Init));
            AddBiases(adapter);
            AddSavedModules(adapter);
            TokenRows.Add(set, adapter, _warnings, (_, table, ids) => table.index_select(0, ids).to(ScalarType.Float32));
            RequireSomething(adapter, config);
            foreach (NamedTensor tensor in adapter.Tensors)
            {
                tensor.Value.requires_grad = true;
            }

            ExpertTarget.SpreadAll(set, adapter);
        }
        catch
        {
            adapter.Dispose();
            throw;
        }

        NoteUnseen(adapter, directions);
        adapter.Warnings = _warnings;
        return adapter;
    }

    /// <summary>Replaces <c>all-linear</c> by names, and says which listed targets match nothing.</summary>
    private PeftConfig Resolve(PeftConfig config)
    {
        config = Targets.Resolve(set, config);
        if (config.TargetModules is { Pattern: null } list)
        {
            string[] idle = [.. list.Names.Where(n => !set.Order.Any(path => ModuleSelector.List([n]).Matches(path)))];
            if (idle.Length > 0 && idle.Length < list.Names.Count)
            {
                _warnings.Add($"Of the targets, {string.Join(", ", idle)} match no linear layer or embedding of this model.");
            }
        }

        return config.FanInFanOut || !set.Linears.Values.Any(l => l.Spec.IsConv1D && PeftMatching.IsTarget(config, l.Spec.Name))
            ? config
            : config with { FanInFanOut = true };
    }

    private void AddFactors(LoraAdapter adapter, FactorInitializer initializer)
    {
        foreach (string path in set.Order.Where(p => PeftMatching.IsTarget(adapter.Config, p)))
        {
            int rank = PeftMatching.RankOf(adapter.Config, path);
            bool isEmbedding = set.Embeddings.ContainsKey(path);
            AdapterModule module = adapter.Module(path, isEmbedding);
            module.Scaling = PeftMatching.ScalingOf(adapter.Config, path);
            if (isEmbedding)
            {
                if (adapter.Config.LoraBias)
                {
                    throw new LoraSharpException($"lora_bias is not defined for an embedding, and the targets match {path}. Leave one of them out.");
                }

                LoraEmbedding layer = set.Embeddings[path];
                initializer.Embedding(module, layer.Spec, rank, set.Device);
                module.Magnitude = adapter.Config.UseDora ? Own(layer.WeightNorms(module)) : null;
                NoteTied(path);
                continue;
            }

            LoraLinear linear = set.Linears[path];
            initializer.Linear(module, linear, rank, set.Device);
            if (adapter.Config.LoraBias)
            {
                module.BBias = Own(zeros([linear.Spec.OutFeatures], ScalarType.Float32, set.Device));
                if (!linear.Spec.HasBias)
                {
                    _warnings.Add($"{path} has no bias, so an adapter with lora_bias can't be merged into it.");
                }
            }

            module.Magnitude = adapter.Config.UseDora ? Own(linear.WeightNorms(module)) : null;
            if (linear.Spec.TiedTo is { } tied)
            {
                _warnings.Add($"{path} shares its weight with {tied}: only {path} is adapted, and merging gives it a weight of its own.");
            }
        }
    }

    private void AddExperts(LoraAdapter adapter, FactorInitializer initializer)
    {
        foreach (ExpertTarget target in set.Experts.Values.Where(t => TargetParameters.IsTarget(adapter.Config, t.Path)))
        {
            initializer.Stack(adapter.Stack(target), target, PeftMatching.RankOf(adapter.Config, target.Path), set.Device);
        }

        string[] idle = [.. (adapter.Config.TargetParameters ?? []).Where(t => !set.Experts.Keys.Concat(set.Order.Select(p => p + ".weight"))
            .Any(p => TargetParameters.IsTarget(new PeftConfig { TargetParameters = [t] }, p)))];
        if (idle.Length > 0)
        {
            throw new LoraSharpException(
                $"target_parameters: {string.Join(", ", idle)} match no stack of experts of this model{(set.Experts.Count == 0 ? ", which has none" : $"; it has {string.Join(", ", set.Experts.Keys.Take(3))}{(set.Experts.Count > 3 ? " and so on" : string.Empty)}")}.");
        }
    }

    private void NoteUnseen(LoraAdapter adapter, InputDirections? directions)
    {
        if (directions is null)
        {
            return;
        }

        IReadOnlyDictionary<string, int> ranks = directions.Ranks();
        string[] unseen = [.. adapter.Modules.Values.Where(m => m.A is not null && !m.IsSlice && !ranks.ContainsKey(m.Name)).Select(m => m.Name)];
        if (unseen.Length > 0)
        {
            _warnings.Add($"init eva: {unseen.Length} modules start as usual, since they look up rows or saw too few tokens: {string.Join(", ", unseen.Take(5))}{(unseen.Length > 5 ? ", ..." : string.Empty)}.");
        }

        if (!directions.IsConverged)
        {
            _warnings.Add($"init eva: after {directions.Batches} batches some directions still move; they are taken as they are.");
        }
    }

    private void AddBiases(LoraAdapter adapter)
    {
        if (adapter.Config.Bias == "none")
        {
            return;
        }

        foreach (LoraLinear layer in set.Linears.Values.Where(l => l.Bias is not null))
        {
            if (adapter.Config.Bias == "all" || adapter.Modules.ContainsKey(layer.Spec.Name))
            {
                adapter.Module(layer.Spec.Name, false).Bias ??= Own(layer.Bias!.to(ScalarType.Float32, copy: true));
            }
        }

        foreach ((string name, ModelParameter parameter) in set.Parameters.Where(p => adapter.Config.Bias == "all" && p.Key.EndsWith(".bias", StringComparison.Ordinal)))
        {
            adapter.AddParameter(name, Own(parameter.Base.clone()));
        }
    }

    private void AddSavedModules(LoraAdapter adapter)
    {
        IReadOnlyList<string>? saved = adapter.Config.ModulesToSave;
        foreach (string path in set.Order.Where(p => PeftMatching.IsSaved(saved, p)))
        {
            AdapterModule module = adapter.Module(path, set.Embeddings.ContainsKey(path));
            if (set.Embeddings.TryGetValue(path, out LoraEmbedding? embedding))
            {
                module.Weight = Own(embedding.Weight.to(ScalarType.Float32, copy: true));
                NoteTied(path);
                continue;
            }

            LoraLinear linear = set.Linears[path];
            module.IsConv1D = linear.Spec.IsConv1D;
            using Tensor weight = linear.DenseWeight();
            module.Weight = Own(weight.to(ScalarType.Float32, copy: true));
            module.Bias ??= linear.Bias is { } bias ? Own(bias.to(ScalarType.Float32, copy: true)) : null;
        }

        foreach ((string name, ModelParameter parameter) in set.Parameters)
        {
            if (!adapter.Parameters.ContainsKey(name) && PeftMatching.IsSaved(saved, name[..Math.Max(0, name.LastIndexOf('.'))]))
            {
                adapter.AddParameter(name, Own(parameter.Base.clone()));
            }
        }

        string[] idle = [.. (saved ?? []).Where(s => !set.Order.Any(p => PeftMatching.IsSaved([s], p))
            && !set.Parameters.Keys.Any(p => PeftMatching.IsSaved([s], p[..Math.Max(0, p.LastIndexOf('.'))])))];
        if (idle.Length > 0)
        {
            throw new LoraSharpException($"modules_to_save: {string.Join(", ", idle)} match no module of this model.");
        }
    }

    private void NoteTied(string embedding)
    {
        foreach (LoraLinear head in set.Linears.Values.Where(l => l.Spec.TiedTo == embedding + ".weight"))
        {
            _warnings.Add($"{head.Spec.Name} shares its weight with {embedding}: only {embedding} is adapted, and merging gives {head.Spec.Name} a weight of its own.");
        }
    }

    private void RequireSomething(LoraAdapter adapter, PeftConfig config)
    {
        if (config.TargetModules is not null && !adapter.Modules.Values.Any(m => m.A is not null) && (config.TargetModules.Pattern is not null || config.TargetModules.Names.Count > 0))
        {
            string[] kinds = [.. set.Linears.Keys.Concat(set.Embeddings.Keys).Select(p => p[(p.LastIndexOf('.') + 1)..]).Distinct(StringComparer.Ordinal)];
            throw new LoraSharpException(
                $"The targets '{config.TargetModules}' match no layer of this model. Its {set.Linears.Count} linear layers are named {string.Join(", ", kinds)} (e.g. {string.Join(", ", set.Linears.Keys.Take(3))}); use such names, a regular expression over whole paths, or all-linear.");
        }

        if (!adapter.Tensors.Any())
        {
            throw new LoraSharpException("Nothing would be trained: the settings select no module of this model.");
        }
    }

    private static Tensor Own(Tensor tensor) => tensor.DetachFromDisposeScope();
}
