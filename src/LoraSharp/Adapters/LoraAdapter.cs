using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>One adapter in memory: its configuration and what it has for each module. Owns its tensors.</summary>
public sealed class LoraAdapter : IDisposable
{
    private readonly Dictionary<string, AdapterModule> _modules = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Tensor> _parameters = new(StringComparer.Ordinal);

    internal LoraAdapter(string name, PeftConfig config, bool trainable)
    {
        Name = name;
        Config = config;
        IsTrainable = trainable;
    }

    /// <summary>Name by which it is selected.</summary>
    public string Name { get; }

    /// <summary>As it stands in <c>adapter_config.json</c>, with <c>all-linear</c> resolved.</summary>
    public PeftConfig Config { get; }

    /// <summary>Whether its tensors get gradients.</summary>
    public bool IsTrainable { get; }

    /// <summary>Dropout over whole ranks while training; see <see cref="LoraOptions.RankDropout"/>.</summary>
    public double RankDropout { get; internal set; }

    /// <summary>What it has for linear layers and embeddings, by path.</summary>
    public IReadOnlyDictionary<string, AdapterModule> Modules => _modules;

    /// <summary>Other parameters saved in full (norms), by their name in the base model; owned by the adapter.</summary>
    public IReadOnlyDictionary<string, Tensor> Parameters => _parameters;

    /// <summary>Metadata of the weights' file it was loaded from.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; init; } = new Dictionary<string, string>();

    /// <summary>What loading or making it had to say: B all zero, another base, targets without a match, tied weights.</summary>
    public IReadOnlyList<string> Warnings { get; internal set; } = [];

    /// <summary>Whether it takes part of the base out (PiSSA, OLoRA), so that it is saved with twice its rank.</summary>
    public bool HasAnchors => _modules.Values.Any(m => m.AnchorA is not null);

    /// <summary>Whether it changes single experts, to which tokens come out of their order.</summary>
    internal bool TouchesExperts { get; set; }

    /// <summary>Whether rows that use it can't share a forward pass with rows that don't.</summary>
    internal bool RunsAlone => Parameters.Count > 0 || TouchesExperts;

    /// <summary>Its trainable tensors as a state dict names them; the very tensors, owned by the adapter (a norm's by the model).</summary>
    public IEnumerable<NamedTensor> Tensors => _modules.Values.SelectMany(m => m.Named(Name))
        .Concat(_parameters.Select(p => new NamedTensor(p.Key, Live.GetValueOrDefault(p.Key, p.Value))));

    /// <summary>Number of elements in <see cref="Tensors"/>.</summary>
    public long ParameterCount => Tensors.Sum(t => t.Value.NumberOfElements);

    /// <summary>Bytes of its tensors in memory, anchors and second copies of the factors included.</summary>
    public long Bytes => Tensors.Sum(t => t.Value.NumberOfElements * t.Value.ElementSize)
        + _modules.Values.Sum(m => m.AnchorA is null ? 0 : 4 * (m.AnchorA.NumberOfElements + m.AnchorB!.NumberOfElements))
        + _modules.Values.Sum(m => m.Bfloat16Bytes);

    /// <summary>While it is selected, the model's own parameters that hold its values.</summary>
    internal Dictionary<string, Tensor> Live { get; } = new(StringComparer.Ordinal);

    internal AdapterModule Module(string path, bool isEmbedding)
    {
        if (!_modules.TryGetValue(path, out AdapterModule? module))
        {
            module = new AdapterModule(path, isEmbedding);
            _modules.Add(path, module);
        }

        return module;
    }

    internal AdapterModule Stack(ExpertTarget target)
    {
        if (!_modules.TryGetValue(target.Path, out AdapterModule? module))
        {
            module = new AdapterModule(target.Path, false)
            {
                Experts = target.Count,
                KeyOfPart = part => TargetParameters.KeyOf(Config, target.Path, part),
                Scaling = PeftMatching.ScalingOf(Config, target.Path),
            };
            _modules.Add(target.Path, module);
        }

        return module;
    }

    internal void Add(AdapterModule module) => _modules.Add(module.Name, module);

    internal void AddParameter(string name, Tensor value) => _parameters.Add(name, value);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (AdapterModule module in _modules.Values)
        {
            module.Dispose();
        }

        foreach (Tensor tensor in _parameters.Values)
        {
            tensor.Dispose();
        }
    }
}
