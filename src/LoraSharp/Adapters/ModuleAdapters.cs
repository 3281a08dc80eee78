using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// LoRA on a TorchSharp module of one's own: every <c>nn.Linear</c> in it can be adapted, trained, saved, switched off
/// and mixed, without a change to its code. The adapted output comes from a forward hook, so layers have to be run by
/// <c>call</c>, not by <c>forward</c>.
/// </summary>
/// <example>
/// <code>
/// using var lora = ModuleAdapters.Attach(net);
/// lora.Create(new LoraOptions { Rank = 4, Targets = ModuleSelector.List(["hidden"]) }, seed: 1);
/// var optimizer = torch.optim.AdamW(lora.Parameters, lr: 1e-2);
/// ... // train as ever
/// lora.Save("adapter");
/// </code>
/// </example>
public sealed class ModuleAdapters : IDisposable
{
    private readonly List<Action> _detach = [];

    private ModuleAdapters()
    {
    }

    /// <summary>The adapters: select, weight, disable, remove.</summary>
    public AdapterSet Adapters { get; } = new();

    /// <summary>What an optimizer of TorchSharp takes: the trained tensors of all adapters.</summary>
    public IEnumerable<Parameter> Parameters => Adapters.Trainable.Select(t => (Parameter)t.Value);

    /// <summary>The trained tensors of one adapter.</summary>
    public IEnumerable<Parameter> ParametersOf(string name) => Adapters[name].Tensors.Select(t => (Parameter)t.Value);

    /// <summary>Freezes the module and makes its linear layers adaptable, under their names in the module.</summary>
    /// <param name="module">Must outlive what is returned; left as it was when that is disposed, but for <c>requires_grad</c>.</param>
    /// <exception cref="LoraSharpException">It holds no linear layer.</exception>
    public static ModuleAdapters Attach(nn.Module module)
    {
        ArgumentNullException.ThrowIfNull(module);
        NativeRuntime.EnsureLoaded();
        var attached = new ModuleAdapters();
        foreach ((_, Parameter parameter) in module.named_parameters())
        {
            parameter.requires_grad = false;
        }

        foreach ((string name, nn.Module child) in module.named_modules())
        {
            if (child is Linear linear)
            {
                LoraLinear layer = attached.Adapters.Register(new ModuleLinear(name, linear), null);
                var hook = linear.register_forward_hook((_, x, y) => attached.Adapters.Selection.IsEmpty ? y : layer.Adapt(x, y));
                attached._detach.Add(hook.remove);
            }
        }

        return attached._detach.Count > 0
            ? attached
            : throw new LoraSharpException($"{module.GetName()}: there is no nn.Linear in this module to adapt.");
    }

    /// <summary>Makes an adapter, attaches and selects it; see <see cref="AdapterSet.Create"/>.</summary>
    public LoraAdapter Create(LoraOptions options, long seed, string name = AdapterSet.DefaultName)
    {
        LoraAdapter adapter = Adapters.Create(options, seed, name);
        foreach (AdapterModule part in adapter.Modules.Values)
        {
            part.A = Own(part.A);
            part.B = Own(part.B);
            part.BBias = Own(part.BBias);
            part.Magnitude = Own(part.Magnitude);
            part.Bias = Own(part.Bias);
            part.Weight = Own(part.Weight);
        }

        return adapter;
    }

    /// <summary>Uses one adapter alone, times a weight.</summary>
    public void Select(string name, double weight = 1) => Adapters.Select(name, weight);

    /// <summary>Uses several adapters at once; what they change adds up.</summary>
    public void Mix(params IEnumerable<(string Name, double Weight)> adapters) => Adapters.Select(adapters);

    /// <summary>Uses the module as it was until what is returned is disposed: <c>using (lora.DisableAdapters()) { ... }</c>.</summary>
    public IDisposable DisableAdapters() => Adapters.Disable();

    /// <summary>Writes an adapter as a folder of PEFT's form.</summary>
    public void Save(string folder, string name = AdapterSet.DefaultName) => AdapterWriter.Write(Adapters[name], folder);

    /// <summary>Loads an adapter that <see cref="Save"/> wrote and selects it.</summary>
    public LoraAdapter Load(string folder, string name = AdapterSet.DefaultName)
    {
        using AdapterFolder saved = AdapterFolder.Open(folder);
        LoraAdapter adapter = Adapters.Load(saved, name);
        Adapters.Select(name);
        return adapter;
    }

    /// <summary>Takes the hooks out and frees the adapters: the module computes as before.</summary>
    public void Dispose()
    {
        _detach.ForEach(d => d());
        _detach.Clear();
        Adapters.Dispose();
    }

    private static Tensor? Own(Tensor? tensor) => tensor is null ? null : new Parameter(tensor).DetachFromDisposeScope();

    /// <summary>An <c>nn.Linear</c> as a layer; the module owns its tensors.</summary>
    private sealed class ModuleLinear(string name, Linear linear)
        : LinearLayer(new LinearSpec(name, linear.weight!.shape[1], linear.weight.shape[0], linear.bias is not null))
    {
        public override Tensor? Bias => linear.bias;

        public override IEnumerable<NamedTensor> Parameters => [];

        public override Tensor Forward(Tensor x) => nn.functional.linear(x, linear.weight!, linear.bias!);

        public override Tensor DenseWeight() => linear.weight!.alias();

        protected override void Dispose(bool disposing)
        {
        }
    }
}
