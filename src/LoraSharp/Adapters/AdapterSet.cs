using LoraSharp.Adapters.Initialization;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// The adapters of one model and which of them its layers use. A <see cref="LoraLinearFactory"/> tells it of every layer
/// while the model is built; from then on adapters are made, loaded, selected, mixed, switched off and removed here.
/// For one thread: the one that runs the model.
/// </summary>
public sealed class AdapterSet : IDisposable
{
    private readonly Dictionary<string, LoraLinear> _linears = new(StringComparer.Ordinal);
    private readonly Dictionary<string, LoraEmbedding> _embeddings = new(StringComparer.Ordinal);
    private readonly Dictionary<string, ModelParameter> _parameters = new(StringComparer.Ordinal);
    private readonly Dictionary<string, ExpertTarget> _experts = new(StringComparer.Ordinal);
    private readonly List<string> _order = [];
    private readonly Dictionary<string, LoraAdapter> _adapters = new(StringComparer.Ordinal);
    private AdapterSelection _selection = AdapterSelection.None;

    // Before the first use of a tensor type, which the properties below are.
    static AdapterSet() => NativeRuntime.EnsureLoaded();

    /// <summary>Name of the only adapter where nobody chose one, PEFT's.</summary>
    public const string DefaultName = "default";

    /// <summary>Adapters by name.</summary>
    public IReadOnlyDictionary<string, LoraAdapter> Adapters => _adapters;

    /// <summary>The model's linear layers by path, in the order in which they were built.</summary>
    public IReadOnlyDictionary<string, LoraLinear> Linears => _linears;

    /// <summary>The model's embeddings by path.</summary>
    public IReadOnlyDictionary<string, LoraEmbedding> Embeddings => _embeddings;

    /// <summary>Whether dropout is on. A trainer sets it around its steps.</summary>
    public bool Training { get; set; }

    /// <summary>Where dropout gets its numbers; its two fields are all the state that an exact resume needs.</summary>
    public DropoutSource Dropout { get; } = new(0);

    /// <summary>
    /// What says which base this is: recorded with a saved adapter, compared when one is loaded. Null until the model
    /// is built from a source.
    /// </summary>
    public BaseFingerprint? Base { get; private set; }

    /// <summary>Load adapters that were recorded on another base with a warning instead of an error; default false.</summary>
    public bool AcceptOtherBases { get; init; }

    /// <summary>
    /// Round A and B of loaded adapters that are not trained to bfloat16, as most servers do; default false, which is PEFT's
    /// float32. On a CPU batches of many adapters are faster so; adapters that were saved in bfloat16 gain without being changed.
    /// </summary>
    public bool RoundFactors { get; init; }

    /// <summary>What the next forward pass uses.</summary>
    public AdapterSelection Selection
    {
        get => _selection;
        set => Change(value);
    }

    /// <summary>Tensors of all adapters that get gradients, under the names of a state dict.</summary>
    public IEnumerable<NamedTensor> Trainable => _adapters.Values.Where(a => a.IsTrainable).SelectMany(a => a.Tensors);

    /// <summary>The adapter of this name.</summary>
    /// <exception cref="LoraSharpException">There is none.</exception>
    public LoraAdapter this[string name] => _adapters.TryGetValue(name, out LoraAdapter? adapter)
        ? adapter
        : throw new LoraSharpException($"There is no adapter '{name}'. Loaded: {(_adapters.Count == 0 ? "none" : string.Join(", ", _adapters.Keys))}.");

    /// <summary>
    /// Makes a new adapter to be trained, attaches it and selects it. With the usual initialisation the model's answers
    /// do not change.
    /// </summary>
    /// <param name="options">What it is to be.</param>
    /// <param name="seed">For the random factors.</param>
    /// <param name="name">Name to select it by.</param>
    /// <param name="baseModel">Name of the base to record.</param>
    /// <param name="directions">What the layers see of the training data; needed by init eva.</param>
    /// <exception cref="LoraSharpException">Settings that can't be used, targets that match nothing, a name that is taken.</exception>
    public LoraAdapter Create(LoraOptions options, long seed, string name = DefaultName, string? baseModel = null, InputDirections? directions = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        RequireFree(name);
        LoraAdapter adapter = new AdapterBuilder(this).Build(name, options, seed, baseModel, directions);
        _adapters.Add(name, adapter);
        Select(name);
        return adapter;
    }

    /// <summary>Loads an adapter, checks every tensor of it against the model, and attaches it without selecting it.</summary>
    /// <param name="folder">The adapter; may be disposed afterwards.</param>
    /// <param name="name">Name to select it by.</param>
    /// <param name="trainable">To go on training it.</param>
    /// <exception cref="LoraSharpException">Nothing matches, keys are left over, shapes differ, values aren't finite (all faults are named), or it was made on another base.</exception>
    public LoraAdapter Load(AdapterFolder folder, string name = DefaultName, bool trainable = false)
    {
        ArgumentNullException.ThrowIfNull(folder);
        RequireFree(name);
        LoraAdapter adapter = new AdapterLoader(this).Load(folder, name, trainable);
        _adapters.Add(name, adapter);
        return adapter;
    }

    /// <summary>A load that is done in pieces between other work; give its result to <see cref="Add"/>.</summary>
    internal AdapterLoader BeginLoad(AdapterFolder folder, string name)
    {
        RequireFree(name);
        var loader = new AdapterLoader(this);
        loader.Begin(folder, name, trainable: false);
        return loader;
    }

    /// <summary>Attaches what <see cref="BeginLoad"/> came to.</summary>
    internal void Add(LoraAdapter adapter)
    {
        RequireFree(adapter.Name);
        _adapters.Add(adapter.Name, adapter);
    }

    /// <summary>The adapter that is folded into weights of its own; null for none.</summary>
    internal LoraAdapter? Folded { get; private set; }

    /// <summary>
    /// Makes weights with this adapter folded in, beside the base's, in the base's type: what selects it alone is as fast as
    /// the base. Only one adapter at a time.
    /// </summary>
    internal void Fold(string name)
    {
        LoraAdapter adapter = this[name];
        foreach (LoraLinear layer in _linears.Values)
        {
            layer.Fold(adapter);
        }

        Folded = adapter;
    }

    /// <summary>Frees the folded weights: the base is what it was, to the bit, for it was never changed.</summary>
    internal void Unfold()
    {
        foreach (LoraLinear layer in _linears.Values)
        {
            layer.Unfold();
        }

        Folded = null;
    }

    /// <summary>Takes an adapter out and frees it. Where it was selected, the rest of the selection stays.</summary>
    public void Remove(string name)
    {
        LoraAdapter adapter = this[name];
        if (_selection.Adapters.Contains(adapter))
        {
            Selection = _selection.Segments is null
                ? AdapterSelection.ForAll(_selection.All.Where(a => a.Adapter != adapter))
                : AdapterSelection.None;
        }

        if (adapter == Folded)
        {
            Unfold();
        }

        _adapters.Remove(name);
        adapter.Dispose();
    }

    /// <summary>Uses one adapter for every row.</summary>
    /// <param name="name">Which.</param>
    /// <param name="weight">Factor on what it changes.</param>
    public void Select(string name, double weight = 1) => Selection = AdapterSelection.ForAll([new(this[name], weight)]);

    /// <summary>Uses several adapters at once; what they change adds up.</summary>
    public void Select(IEnumerable<(string Name, double Weight)> adapters) =>
        Selection = AdapterSelection.ForAll([.. adapters.Select(a => new WeightedAdapter(this[a.Name], a.Weight))]);

    /// <summary>Uses the base alone.</summary>
    public void SelectNone() => Selection = AdapterSelection.None;

    /// <summary>
    /// Uses the base alone until what is returned is disposed: <c>using (adapters.Disable()) { ... }</c>.
    /// </summary>
    public IDisposable Disable() => Use(AdapterSelection.None);

    /// <summary>Uses a selection until what is returned is disposed.</summary>
    public IDisposable Use(AdapterSelection selection)
    {
        var restore = new Restore(this, _selection);
        Selection = selection;
        return restore;
    }

    /// <summary>Tensors that adapters have for one layer.</summary>
    internal IEnumerable<NamedTensor> TensorsOf(string path)
    {
        foreach (LoraAdapter adapter in _adapters.Values)
        {
            if (adapter.Modules.TryGetValue(path, out AdapterModule? module))
            {
                foreach (NamedTensor tensor in module.Named(adapter.Name))
                {
                    yield return tensor;
                }
            }
        }
    }

    /// <summary>The model's other parameters that an adapter may replace, by name.</summary>
    internal IReadOnlyDictionary<string, ModelParameter> Parameters => _parameters;

    /// <summary>Stacks of experts by the name that <c>target_parameters</c> gives them.</summary>
    internal IReadOnlyDictionary<string, ExpertTarget> Experts => _experts;

    /// <summary>Paths of linear layers and embeddings in the order in which they were built.</summary>
    internal IReadOnlyList<string> Order => _order;

    /// <summary>Device of the model.</summary>
    internal Device Device { get; private set; } = CPU;

    /// <summary>Told path and input [..., k] of every linear layer that runs; null for nobody.</summary>
    internal Action<string, Tensor>? Watcher { get; set; }

    internal LoraLinear Register(LinearLayer inner, WeightReader? weights)
    {
        var layer = new LoraLinear(inner, this, _order.Count);
        if (!_linears.TryAdd(inner.Spec.Name, layer))
        {
            throw new InvalidOperationException($"A layer {inner.Spec.Name} was already built with this set of adapters: each model needs its own.");
        }

        if (inner.Spec.Stack is { } slice)
        {
            ExpertOf(new(slice.Parameter, slice.Count, inner.Spec.InFeatures, slice.Rows)).Layers.Add(layer);
        }

        _order.Add(inner.Spec.Name);
        Note(weights);
        return layer;
    }

    internal LoraExpertStack Register(ExpertStack inner, WeightReader weights)
    {
        ExpertStackSpec spec = inner.Spec;
        ExpertOf(new(spec.Name, spec.Count, spec.InFeatures, spec.OutFeatures));
        Note(weights);
        return new LoraExpertStack(inner, this);
    }

    internal LoraEmbedding Register(EmbeddingLayer inner, WeightReader weights)
    {
        var layer = new LoraEmbedding(inner, this);
        if (!_embeddings.TryAdd(inner.Spec.Name, layer))
        {
            throw new InvalidOperationException($"A layer {inner.Spec.Name} was already built with this set of adapters: each model needs its own.");
        }

        _order.Add(inner.Spec.Name);
        Note(weights);
        return layer;
    }

    internal void Register(string name, Tensor parameter, WeightReader weights)
    {
        _parameters.TryAdd(name, new ModelParameter(parameter));
        Note(weights);
    }

    /// <summary>Frees the adapters; the model owns its layers.</summary>
    public void Dispose()
    {
        _selection = AdapterSelection.None;
        foreach (LoraAdapter adapter in _adapters.Values)
        {
            adapter.Dispose();
        }

        _adapters.Clear();
        foreach (ModelParameter parameter in _parameters.Values)
        {
            parameter.Dispose();
        }

        Dropout.Dispose();
    }

    private ExpertTarget ExpertOf(ExpertTarget target)
    {
        _experts.TryAdd(target.Path, target);
        return _experts[target.Path];
    }

    private void Note(WeightReader? weights)
    {
        if (weights is not null)
        {
            Device = weights.Device;
            Base ??= BaseFingerprint.Of(weights.Source);
        }
    }

    private void RequireFree(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        if (_adapters.ContainsKey(name))
        {
            throw new LoraSharpException($"There is already an adapter '{name}'. Remove it first or choose another name.");
        }
    }

    private void Change(AdapterSelection selection)
    {
        ArgumentNullException.ThrowIfNull(selection);
        if (ReferenceEquals(selection, _selection))
        {
            return;
        }

        if (_parameters.Count > 0)
        {
            ParameterSwap.Apply(_parameters, _selection, selection);
        }

        _selection = selection;
    }

    private sealed class Restore(AdapterSet set, AdapterSelection before) : IDisposable
    {
        public void Dispose() => set.Selection = before;
    }
}
