using LoraSharp.Adapters;
using LoraSharp.Formats.Peft;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

/// <summary>Factors that are rounded to bfloat16 when they are loaded, and the copies that the kernel reads. Counts live tensors.</summary>
[CollectionDefinition(nameof(RoundedFactorsTests), DisableParallelization = true)]
[Collection(nameof(RoundedFactorsTests))]
public sealed class RoundedFactorsTests
{
    public RoundedFactorsTests() => NativeRuntime.EnsureLoaded();

    [Fact]
    public void Rounded_factors_are_bfloat16s_values_with_a_copy_that_is_counted_and_freed()
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Fixtures.Path("models/llama"), Device = "cpu", RoundFactors = true });
        long before = Tensor.TotalCount;
        using (AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/plain_qv")))
        {
            LoraAdapter adapter = loaded.Adapters.Load(folder, "rounded");
            using (NewDisposeScope())
            {
                Assert.All(adapter.Tensors, t => Assert.True(t.Value.to(ScalarType.BFloat16).to(ScalarType.Float32).equal(t.Value).all().item<bool>(), t.Name));
            }

            Assert.All(adapter.Modules.Values, m => Assert.True(m.KernelFactors is { IsBfloat16: true }, m.Name));
            Assert.Equal(6 * adapter.ParameterCount, adapter.Bytes);
        }

        loaded.Adapters.Remove("rounded");
        Assert.Equal(before, Tensor.TotalCount);
    }

    [Theory]
    [InlineData("plain_qv", false)]
    [InlineData("pissa", true)]
    public void Factors_stay_as_they_are_without_it_and_where_they_hold_a_part_of_the_base(string name, bool round)
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Fixtures.Path("models/llama"), Device = "cpu", RoundFactors = round });
        using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
        LoraAdapter adapter = loaded.Adapters.Load(folder, name);
        using var scope = NewDisposeScope();
        Assert.Contains(adapter.Tensors, t => !t.Value.to(ScalarType.BFloat16).to(ScalarType.Float32).equal(t.Value).all().item<bool>());
        Assert.All(adapter.Modules.Values, m => Assert.False(m.KernelFactors is { IsBfloat16: true }, m.Name));
    }
}
