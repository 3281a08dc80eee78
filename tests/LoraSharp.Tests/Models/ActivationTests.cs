using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

public sealed class ActivationTests
{
    /// <summary>By the name that <c>hidden_act</c> has, at 1.5 and at -0.5, in eight digits of the formula.</summary>
    [Theory]
    [InlineData("silu", 1.22636171, -0.18877033)]
    [InlineData("gelu", 1.39978920, -0.15426877)]
    [InlineData("gelu_new", 1.39957158, -0.15428599)]
    [InlineData("gelu_fast", 1.39957158, -0.15428599)]
    [InlineData("quick_gelu", 1.39166220, -0.14961156)]
    [InlineData("mish", 1.40337827, -0.22074377)]
    [InlineData("relu", 1.5, 0)]
    [InlineData("relu2", 2.25, 0)]
    [InlineData("relu6", 1.5, 0)]
    [InlineData("tanh", 0.90514825, -0.46211716)]
    [InlineData("sigmoid", 0.81757448, 0.37754067)]
    [InlineData("linear", 1.5, -0.5)]
    public void NamesAreTheirFormulas(string name, double at, double below)
    {
        NativeRuntime.EnsureLoaded();
        using var scope = NewDisposeScope();
        Tensor y = Activations.Parse(name)!.Value.Apply(tensor([1.5f, -0.5f, 7f]));
        Assert.Equal(at, y[0].item<float>(), 1e-6);
        Assert.Equal(below, y[1].item<float>(), 1e-6);
        if (name == "relu6")
        {
            Assert.Equal(6, y[2].item<float>());
        }
    }
}
