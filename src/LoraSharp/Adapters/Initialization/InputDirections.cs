using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Initialization;

/// <summary>
/// EVA (Paischer et al. 2024, section 3): what a model's linear layers see of the data. Each target's A starts as the
/// strongest right-singular vectors of its inputs, and ranks go to the layers whose directions explain most. The caller
/// runs batches of the training data through the base inside <see cref="Watch"/> until <see cref="IsComplete"/>, then
/// hands this to <see cref="AdapterSet.Create(LoraOptions, long, string, string?, InputDirections?)"/>.
/// </summary>
public sealed class InputDirections : IDisposable
{
    private readonly AdapterSet _set;
    private readonly EvaOptions _eva;
    private readonly PeftConfig _config;
    private readonly Generator _generator;
    private readonly Dictionary<string, int> _most;
    private readonly Dictionary<string, SharedInput> _inputs = new(StringComparer.Ordinal);
    private readonly List<SharedInput> _shared = [];
    private readonly int _components;
    private Tensor? _lastInput;
    private SharedInput? _lastShared;
    private Tensor? _places;
    private long _positions;

    /// <summary>Prepares to watch the targets of an adapter to be.</summary>
    /// <param name="set">The model's.</param>
    /// <param name="options">With init eva.</param>
    /// <param name="eva">Settings of EVA.</param>
    /// <param name="seed">Of the randomised decompositions.</param>
    /// <exception cref="LoraSharpException">Settings out of range; no target is a linear layer.</exception>
    public InputDirections(AdapterSet set, LoraOptions options, EvaOptions eva, long seed)
    {
        ArgumentNullException.ThrowIfNull(set);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(eva);
        options.Validate();
        eva.Validate();
        (_set, _eva) = (set, eva);
        _config = Targets.Resolve(set, options.ToConfig(null));
        _most = set.Linears.Values.Where(l => PeftMatching.IsTarget(_config, l.Spec.Name)).ToDictionary(
            l => l.Spec.Name,
            l => (int)Math.Min(Math.Round(PeftMatching.RankOf(_config, l.Spec.Name) * eva.Rho), Math.Min(l.Spec.InFeatures, l.Spec.OutFeatures)),
            StringComparer.Ordinal);
        if (_most.Count == 0)
        {
            throw new LoraSharpException($"init eva: the targets '{_config.TargetModules}' match no linear layer, whose inputs it would look at.");
        }

        _components = _most.Values.Max();
        _generator = new Generator((ulong)seed, CPU);
    }

    /// <summary>Batches watched.</summary>
    public int Batches { get; private set; }

    /// <summary>Whether all directions that the ranks need have been found, or the bound on batches is reached.</summary>
    public bool IsComplete => Batches >= _eva.MaxBatches || IsConverged;

    /// <summary>Whether the directions stand still.</summary>
    public bool IsConverged => Batches > 0 && _shared.TrueForAll(s => s.IsFound);

    /// <summary>Watches the inputs of the linear layers until what is returned is disposed; the base alone is in use meanwhile.</summary>
    /// <param name="places">Which rows of a layer's flattened input [b·s, k] count: indices [n], int64, on the model's device.</param>
    /// <param name="positions">b·s.</param>
    public IDisposable Watch(Tensor places, long positions)
    {
        (_places, _positions) = (places, positions);
        IDisposable disabled = _set.Disable();
        _set.Watcher = Look;
        return new Watching(this, disabled);
    }

    /// <summary>Ranks by path of the targets that were seen: as many in all as the configuration gives them.</summary>
    public IReadOnlyDictionary<string, int> Ranks()
    {
        string[] seen = [.. _most.Keys.Where(p => _inputs.TryGetValue(p, out SharedInput? input) && input.Svd.Directions is not null)];
        int budget = seen.Sum(p => PeftMatching.RankOf(_config, p));

        // Ties (layers with one input) go to the layer that comes first.
        var ranks = seen.ToDictionary(p => p, _ => 0, StringComparer.Ordinal);
        foreach (string path in seen.SelectMany(p => _inputs[p].Svd.Explained.Take(_most[p]).Select(e => (Path: p, Explained: e)))
            .OrderByDescending(c => c.Explained).Take(budget).Select(c => c.Path))
        {
            ranks[path]++;
        }

        return ranks;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _shared.ForEach(s => s.Svd.Dispose());
        _generator.Dispose();
    }

    /// <summary>First values of A [r, k] of a target with this rank, float32, for the caller to dispose; null where its inputs were not seen.</summary>
    internal Tensor? Factor(string path, int rank)
    {
        using var scope = NewDisposeScope();
        return _inputs.TryGetValue(path, out SharedInput? input) ? input.Svd.Directions?.narrow(0, 0, rank).clone().MoveToOuterDisposeScope() : null;
    }

    /// <summary>The configuration with the ranks found; layers that got none are no targets any more.</summary>
    internal PeftConfig Distribute(PeftConfig config)
    {
        IReadOnlyDictionary<string, int> ranks = Ranks();
        string[] targets = [.. _set.Order.Where(p => PeftMatching.IsTarget(config, p))];
        var rankPattern = new Dictionary<string, int>(StringComparer.Ordinal);
        var alphaPattern = new Dictionary<string, double>(StringComparer.Ordinal);
        foreach (string path in targets)
        {
            (int old, double alpha) = (PeftMatching.RankOf(config, path), PeftMatching.AlphaOf(config, path));
            int rank = ranks.GetValueOrDefault(path, old);
            if (rank == 0)
            {
                continue;
            }

            alpha = _eva.AdjustAlpha ? alpha * rank / old : alpha;
            if (rank != config.Rank)
            {
                rankPattern[path] = rank;
            }

            if (alpha != config.Alpha)
            {
                alphaPattern[path] = alpha;
            }
        }

        bool dropped = ranks.Values.Any(r => r == 0);
        var others = (System.Text.Json.Nodes.JsonObject)config.Others.DeepClone();
        others["eva_config"] = _eva.ToJson();
        return config with
        {
            RankPattern = rankPattern,
            AlphaPattern = alphaPattern,
            TargetModules = dropped ? ModuleSelector.List(targets.Where(p => ranks.GetValueOrDefault(p, 1) > 0)) : config.TargetModules,
            LayersToTransform = dropped ? null : config.LayersToTransform,
            LayersPattern = dropped ? null : config.LayersPattern,
            Others = others,
        };
    }

    // Called by every linear layer with its input [..., k].
    private void Look(string path, Tensor input)
    {
        if (!_most.ContainsKey(path))
        {
            return;
        }

        if (!_inputs.TryGetValue(path, out SharedInput? shared))
        {
            // Layers that are called one after the other with one tensor (q, k, v; gate, up) share their directions.
            shared = ReferenceEquals(input, _lastInput) ? _lastShared! : new SharedInput(path, new IncrementalSvd(Math.Min(_components, (int)input.shape[^1]), _generator));
            _inputs.Add(path, shared);
            if (shared.First == path)
            {
                _shared.Add(shared);
            }
        }

        (_lastInput, _lastShared) = (input, shared);
        if (shared.First != path || shared.IsFound)
        {
            return;
        }

        using var scope = NewDisposeScope();
        Tensor rows = input.reshape(-1, input.shape[^1]);
        // An expert sees rows of its own, of which the places say nothing.
        rows = (rows.shape[0] == _positions ? rows.index_select(0, _places!) : rows).to(ScalarType.Float32);
        if (rows.shape[0] >= shared.Svd.Components)
        {
            shared.Svd.Add(rows);
        }
    }

    private void EndBatch()
    {
        _set.Watcher = null;
        (_lastInput, _lastShared, _places) = (null, null, null);
        Batches++;
        IReadOnlyDictionary<string, int> ranks = Ranks();
        foreach (SharedInput shared in _shared)
        {
            int needed = _inputs.Where(i => i.Value == shared).Max(i => ranks.GetValueOrDefault(i.Key));
            double[] steadiness = shared.Svd.Steadiness;
            shared.IsFound = steadiness.Length > 0 && steadiness.Take(needed).All(s => s >= _eva.Tau);
        }
    }

    /// <summary>The input of one or more layers.</summary>
    private sealed class SharedInput(string first, IncrementalSvd svd)
    {
        public string First { get; } = first;

        public IncrementalSvd Svd { get; } = svd;

        public bool IsFound { get; set; }
    }

    private sealed class Watching(InputDirections owner, IDisposable disabled) : IDisposable
    {
        public void Dispose()
        {
            owner.EndBatch();
            disabled.Dispose();
        }
    }
}
