using LoraSharp.Tensors.Interop;
using TorchSharp;

namespace LoraSharp.Tests;

public sealed class AtenCallTests
{
    [Fact]
    public void An_operator_that_writes_into_its_argument_equals_the_plain_one_and_leaks_nothing()
    {
        LoraSharp.Tensors.NativeRuntime.EnsureLoaded();
        using var scope = torch.NewDisposeScope();
        torch.Tensor a = torch.randn(5, 7);
        torch.Tensor b = torch.randn(7, 3);
        torch.Tensor result = torch.empty(5, 3);
        long before = torch.Tensor.TotalCount;

        new AtenCall("aten::mm", "out").Add(a).Add(b).Add(result).InvokeOut();

        Assert.Equal(before, torch.Tensor.TotalCount);
        Assert.True(torch.allclose(result, a.mm(b)));
    }

    [Fact]
    public void Optional_arguments_lists_and_several_results_pass_through()
    {
        LoraSharp.Tensors.NativeRuntime.EnsureLoaded();
        using var scope = torch.NewDisposeScope();
        torch.Tensor x = torch.randn(4, 8);
        torch.Tensor weight = torch.rand(8);

        torch.Tensor normed = new AtenCall("aten::rms_norm").Add(x).Add([8L]).AddOptional(weight).AddOptional(1e-5).InvokeTensor();

        torch.Tensor expected = x * (x.pow(2).mean([-1L], keepdim: true) + 1e-5).rsqrt() * weight;
        Assert.True(torch.allclose(normed, expected, 1e-5, 1e-6));
        ReadOnlySpan<ulong> results = new AtenCall("aten::native_layer_norm").Add(x).Add([8L]).AddOptional((torch.Tensor?)null).AddOptional((torch.Tensor?)null).Add(1e-5).Invoke();
        torch.Tensor y = AtenCall.Tensor(results[0]);
        torch.Tensor mean = AtenCall.Tensor(results[1]);
        torch.Tensor rstd = AtenCall.Tensor(results[2]);
        Assert.True(torch.allclose(y, (x - mean) * rstd, 1e-5, 1e-6));
    }
}
