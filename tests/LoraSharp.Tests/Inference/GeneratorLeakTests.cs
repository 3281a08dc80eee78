using LoraSharp.Inference;
using LoraSharp.Layers;
using LoraSharp.Tests.Models;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Inference;

/// <summary>The count of live tensors is the process's, so nothing else may run beside these.</summary>
[CollectionDefinition(nameof(GeneratorLeakTests), DisableParallelization = true)]
[Collection(nameof(GeneratorLeakTests))]
public class GeneratorLeakTests
{
    [Theory]
    [InlineData("gemma3_pattern")]
    [InlineData("qwen3_moe")]
    [InlineData("deepseek_v3")]
    [InlineData("phi3_longrope")]
    public void GeneratingLeaksNoTensors(string name)
    {
        using var golden = new Golden(name);
        var generator = new TextGenerator(golden.Model);
        generator.Generate([5, 6, 7], new() { MaxTokens = 4 }, null, TestContext.Current.CancellationToken);
        long before = Live();
        generator.Generate([5, 6, 7, 8], new() { MaxTokens = 20, IgnoreEos = true }, null, TestContext.Current.CancellationToken);
        Assert.Equal(before, Live());
    }

    [Fact]
    public void ATrainingStepLeaksNoTensors()
    {
        using var golden = new Golden("llama", new DenseLinearFactory(trainable: true));
        Step(golden);
        long before = Live();
        Step(golden);
        Assert.Equal(before, Live());
    }

    // What earlier tests left to the collector must not be counted.
    private static long Live()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return Tensor.TotalCount;
    }

    private static void Step(Golden golden)
    {
        using var scope = NewDisposeScope();
        Tensor ids = golden.Read("input_ids");
        using var attention = new PaddedAttention();
        golden.Model.Forward(ids, Golden.Arange(ids), attention).square().mean().backward();
        Assert.All(golden.Model.Parameters, p => Assert.True(p.Value.grad is { } g && g.abs().sum().item<float>() > 0, p.Name));
    }
}
