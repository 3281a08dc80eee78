using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

public sealed class RefusedInitTests
{
    [Fact]
    public void Eva_without_its_data_pass_would_train_nothing_and_is_refused()
    {
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);

        var error = Assert.Throws<LoraSharpException>(() => adapters.Create(new LoraOptions { Targets = ModuleSelector.Parse("all-linear"), Init = "eva" }, seed: 1));

        Assert.Contains("eva", error.Message);
        Assert.Empty(adapters.Adapters);
    }
}
