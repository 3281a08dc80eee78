// LoRA on a TorchSharp module of your own: a net that knows sin(x) learns two other curves and forgets nothing.
using LoraSharp.Adapters;
using LoraSharp.Formats.Peft;
using LoraSharp.Tensors;
using static TorchSharp.torch;

NativeRuntime.EnsureLoaded();
random.manual_seed(7);
using var net = new Net();
using Tensor x = linspace(-3, 3, 256).unsqueeze(1), sine = x.sin(), slope = x / 2, bump = (-x * x).exp();
Train(net.parameters(), sine);

// Five lines: attach, describe, create, train, save. Then a second adapter beside it.
using var lora = ModuleAdapters.Attach(net);
var options = new LoraOptions { Rank = 4, Alpha = 8, Targets = ModuleSelector.List(["hidden", "output"]) };
lora.Create(options, seed: 1, "slope");
Train(lora.ParametersOf("slope"), sine + slope);
lora.Save("runs/own-module", "slope");
lora.Create(options, seed: 2, "bump");
Train(lora.ParametersOf("bump"), sine + bump);
lora.Select("slope");
Console.WriteLine($"switched to slope:   sin(x) + x/2 to {Error(sine + slope):0.000}");
lora.Select("slope", weight: 0.5);
Console.WriteLine($"at half its weight:  sin(x) + x/4 to {Error(sine + (slope / 2)):0.000}");
lora.Mix(("slope", 1), ("bump", 0.5));
Console.WriteLine($"mixed with the bump: sin(x) + x/2 + bump/2 to {Error(sine + slope + (bump / 2)):0.000}");
using (lora.DisableAdapters())
{
    Console.WriteLine($"all disabled:        sin(x) to {Error(sine):0.000}, as before");
}

void Train(IEnumerable<TorchSharp.Modules.Parameter> parameters, Tensor target)
{
    using var optimizer = optim.AdamW(parameters, lr: 5e-3);
    for (int step = 0; step < 400; step++)
    {
        using var scope = NewDisposeScope();
        optimizer.zero_grad();
        nn.functional.mse_loss(net.call(x), target).backward();
        optimizer.step();
    }
}

float Error(Tensor target) => nn.functional.mse_loss(net.call(x), target).sqrt().item<float>();

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
