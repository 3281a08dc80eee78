using LoraSharp.Adapters;
using LoraSharp.Adapters.Initialization;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Recipes;
using LoraSharp.Training.Checkpoints;
using LoraSharp.Training.Data;

namespace LoraSharp;

/// <summary>The adapter that a run starts with: new, gone on from, or made from the run's own data.</summary>
/// <param name="recipe">All settings.</param>
/// <param name="resolve">Finds a path of the recipe.</param>
internal sealed class RunAdapter(Recipe recipe, Func<string, string> resolve)
{
    /// <summary>
    /// Whether it can only be made when the rows are there. Any other is made before, so that wrong targets end a run
    /// before its rows are tokenized.
    /// </summary>
    public bool NeedsData => recipe.Adapter is { Init: "eva", InitFrom: null };

    /// <summary>What the recipe says of a new one.</summary>
    public LoraOptions Options()
    {
        AdapterRecipe a = recipe.Adapter;
        return new LoraOptions
        {
            Rank = a.Rank,
            Alpha = a.Alpha,
            Dropout = a.Dropout,
            RankDropout = a.RankDropout,
            Targets = RecipeSettings.Selector(a.Targets),
            TargetParameters = a.TargetParameters.Count > 0 ? a.TargetParameters : null,
            Exclude = a.Exclude is null ? null : RecipeSettings.Selector(a.Exclude),
            LayersToTransform = a.LayersToTransform,
            LayersPattern = a.LayersPattern is null ? null : [a.LayersPattern],
            RankPattern = a.RankPattern,
            AlphaPattern = a.AlphaPattern,
            UseRsLora = a.Rslora,
            UseDora = a.Dora,
            LoraBias = a.LoraBias,
            Bias = a.Bias,
            ModulesToSave = a.ModulesToSave.Count > 0 ? a.ModulesToSave : null,
            TrainableTokens = a.TrainableTokens.Count > 0 ? new Dictionary<string, IReadOnlyList<long>> { [string.Empty] = [.. a.TrainableTokens.Select(t => (long)t)] } : null,
            Init = a.Init == "default" ? "true" : a.Init,
        };
    }

    /// <summary>Makes or loads it, selects it and gives what is to be trained.</summary>
    public IReadOnlyList<NamedTensor> Make(LoadedModel loaded, Action<string> notes)
    {
        if (recipe.Adapter.InitFrom is { } path)
        {
            using AdapterFolder start = EngineSetup.OpenAdapter(resolve(path), loaded.Source);
            return Start(loaded, loaded.Adapters.Load(start, trainable: true), notes);
        }

        return Start(loaded, loaded.Adapters.Create(Options(), recipe.Training.Seed, baseModel: recipe.Model), notes);
    }

    /// <summary>The same where it <see cref="NeedsData"/>.</summary>
    /// <param name="loaded">The base.</param>
    /// <param name="batches">The run's batches from the start.</param>
    /// <param name="checkpoints">A run that goes on takes its adapter from there, which has its ranks already.</param>
    /// <param name="notes">Told what was found.</param>
    /// <param name="cancellation">Ends the pass over the data with an exception.</param>
    public IReadOnlyList<NamedTensor> MakeFromData(LoadedModel loaded, Func<IBatchSource> batches, CheckpointStore checkpoints, Action<string> notes, CancellationToken cancellation)
    {
        if (checkpoints.FindLatest() is var (checkpoint, _))
        {
            using AdapterFolder kept = AdapterFolder.Open(checkpoint);
            LoraAdapter resumed = loaded.Adapters.Load(kept, trainable: true);
            resumed.RankDropout = recipe.Adapter.RankDropout;
            return Start(loaded, resumed, notes);
        }

        LoraOptions options = Options();
        var eva = new EvaOptions { Rho = recipe.Adapter.EvaRho, Tau = recipe.Adapter.EvaTau };
        using var directions = new InputDirections(loaded.Adapters, options, eva, recipe.Training.Seed);
        EvaPass.Run(loaded, directions, batches, eva.SupervisedOnly, cancellation);
        LoraAdapter adapter = loaded.Adapters.Create(options, recipe.Training.Seed, baseModel: recipe.Model, directions: directions);
        int[] ranks = [.. adapter.Modules.Values.Where(m => m is { A: not null, IsSlice: false }).Select(m => m.Rank)];
        notes($"EVA looked at {directions.Batches} batches; ranks from {ranks.Min()} to {ranks.Max()} on {ranks.Length} modules.");
        return Start(loaded, adapter, notes);
    }

    private IReadOnlyList<NamedTensor> Start(LoadedModel loaded, LoraAdapter adapter, Action<string> notes)
    {
        if (recipe.Adapter.Strict && adapter.Warnings.Count > 0)
        {
            throw new LoraSharpException($"{string.Join("\n  ", adapter.Warnings)}\n(adapter.strict treats these warnings as errors)");
        }

        foreach (string warning in adapter.Warnings)
        {
            notes(warning);
        }

        loaded.Adapters.Select(adapter.Name);
        return [.. loaded.Adapters.Trainable];
    }
}
