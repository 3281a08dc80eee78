// LoRA on a TorchSharp module of your own: a net that knows sin(x) learns sin(x) + x/2 without losing what it knew.
using LoraSharp.Adapters;
using LoraSharp.Formats.Peft;
using LoraSharp.Tensors;
using static TorchSharp.torch;

NativeRuntime.EnsureLoaded();
random.manual_seed(7);
using var net = new Net();
using Tensor x = linspace(-3, 3, 256).unsqueeze(1);
using Tensor sine = x.sin();
using Tensor bent = x.sin() + (x / 2);

Train(net.parameters(), sine, 400);
Console.WriteLine($"the net alone:       sin(x) to {Error(sine):0.0000}, sin(x) + x/2 to {Error(bent):0.0000}");

// Five lines: attach, create, train, save, switch.
using var lora = ModuleAdapters.Attach(net);
LoraAdapter adapter = lora.Create(new LoraOptions { Rank = 4, Alpha = 8, Targets = ModuleSelector.List(["hidden", "output"]) }, seed: 1);
Train(lora.Parameters, bent, 400);
lora.Save("runs/own-module");
Console.WriteLine($"with the adapter:    sin(x) + x/2 to {Error(bent):0.0000} ({adapter.ParameterCount} trained parameters)");

using (lora.Adapters.Disable())
{
    Console.WriteLine($"adapter disabled:    sin(x) to {Error(sine):0.0000}, as before");
}

lora.Adapters.Select(AdapterSet.DefaultName, weight: 0.5);
Console.WriteLine($"adapter at weight ½: sin(x) + x/4 to {Error(sine + (x / 4)):0.0000}, halfway");

void Train(IEnumerable<TorchSharp.Modules.Parameter> parameters, Tensor target, int steps)
{
    using var optimizer = optim.AdamW(parameters, lr: 5e-3);
    for (int step = 0; step < steps; step++)
    {
        using var scope = NewDisposeScope();
        optimizer.zero_grad();
        nn.functional.mse_loss(net.call(x), target).backward();
        optimizer.step();
    }
}

double Error(Tensor target)
{
    using var none = no_grad();
    using var scope = NewDisposeScope();
    return nn.functional.mse_loss(net.call(x), target).sqrt().item<float>();
}

internal sealed class Net : nn.Module<Tensor, Tensor>
{
    private readonly nn.Module<Tensor, Tensor> _input = nn.Linear(1, 64), _hidden = nn.Linear(64, 64), _output = nn.Linear(64, 1);

    public Net()
        : base(nameof(Net))
    {
        register_module("input", _input);
        register_module("hidden", _hidden);
        register_module("output", _output);
    }

    public override Tensor forward(Tensor x) => _output.call(_hidden.call(_input.call(x).tanh()).tanh());
}
