using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

public sealed class ModuleAdaptersTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_module_is_adapted_saved_loaded_and_let_go_unchanged(bool dora)
    {
        NativeRuntime.EnsureLoaded();
        using var scope = NewDisposeScope();
        using var net = nn.Sequential(("first", nn.Linear(6, 8)), ("act", nn.Tanh()), ("second", nn.Linear(8, 3)));
        // The same numbers each time, and none so large that training runs away.
        using var generator = new Generator(1, CPU);
        using (no_grad())
        {
            foreach (Tensor parameter in net.parameters())
            {
                parameter.copy_(randn(parameter.shape, generator: generator) * 0.3);
            }
        }

        Tensor x = randn(5, 6, generator: generator);
        Tensor before = net.call(x);
        using var folder = new TemporaryFolder();
        Tensor adapted;
        using (var lora = ModuleAdapters.Attach(net))
        {
            lora.Create(new LoraOptions { Rank = 2, Init = dora ? "true" : "false", UseDora = dora }, seed: 1);
            Assert.Equal(dora ? 6 : 4, lora.Parameters.Count());
            using var optimizer = optim.SGD(lora.Parameters, 0.1);
            for (int i = 0; i < 3; i++)
            {
                optimizer.zero_grad();
                net.call(x).square().mean().backward();
                optimizer.step();
            }

            adapted = net.call(x).detach();
            Assert.True((adapted - before).abs().max().item<float>() > 1e-3);
            using (lora.Adapters.Disable())
            {
                Assert.True(before.Equals(net.call(x)));
            }

            lora.Save(Path.Combine(folder.Path, "a"));
        }

        Assert.True(before.Equals(net.call(x)));
        using (var again = ModuleAdapters.Attach(net))
        {
            again.Load(Path.Combine(folder.Path, "a"));
            Assert.True((adapted - net.call(x)).abs().max().item<float>() < 1e-6);
        }
    }

    [Fact]
    public void A_module_without_linear_layers_is_refused()
    {
        NativeRuntime.EnsureLoaded();
        using var net = nn.Sequential(("act", nn.Tanh()));
        Assert.Throws<LoraSharpException>(() => ModuleAdapters.Attach(net));
    }
}
