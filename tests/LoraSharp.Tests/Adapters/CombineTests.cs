using LoraSharp.Adapters;
using LoraSharp.Adapters.Combining;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

public sealed class CombineTests
{
    private const string Probe = "model.layers.0.self_attn.q_proj";

    private static AdapterFolder[] Open() => [.. "abc".Select(n => AdapterFolder.Open(Fixtures.Path("combine/" + n)))];

    private static Tensor Delta(string folder, string module)
    {
        using AdapterFolder adapter = AdapterFolder.Open(folder);
        using AdapterModule read = AdapterReader.Read(adapter, module);
        return read.Delta()!;
    }

    [Theory]
    [InlineData("linear")]
    [InlineData("cat")]
    [InlineData("svd")]
    [InlineData("ties")]
    [InlineData("ties_svd")]
    [InlineData("magnitude_prune")]
    [InlineData("magnitude_prune_svd")]
    public void Every_method_gives_pefts_update(string method)
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "out");
        double[] weights = [0.7, 0.5, -0.3];
        AdapterFolder[] adapters = Open();
        CombineMethod parsed = CombineOptions.Parse(method);
        var options = new CombineOptions { Method = parsed };
        options = options with { Density = options.Prunes ? 0.5 : null, Rank = options.Cuts ? 6 : null };
        AdapterCombiner.Combine([.. adapters.Select((a, i) => new CombinedAdapter(a, weights[i]))], options, output);
        using Tensor expected = FlatModel.Read("combine/golden.safetensors", "delta." + method);
        using Tensor found = Delta(output, Probe);
        using Tensor difference = (found - expected).abs().max();
        Assert.True(difference.item<float>() < 5e-5, $"largest difference {difference.item<float>()}");
        Array.ForEach(adapters, a => a.Dispose());
    }

    [Fact]
    public void Cat_is_the_sum_of_the_updates_whatever_the_ranks()
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "out");
        using AdapterFolder one = AdapterFolder.Open(Fixtures.Path("adapters/plain_qv"));
        using AdapterFolder two = AdapterFolder.Open(Fixtures.Path("adapters/rslora"));
        AdapterCombiner.Combine([new(one, 0.4), new(two, -1.5)], new CombineOptions { Method = CombineMethod.Cat }, output);
        using var scope = NewDisposeScope();
        Tensor expected = (Delta(one.Location, Probe) * 0.4) + (Delta(two.Location, Probe) * -1.5);
        Assert.True((Delta(output, Probe) - expected).abs().max().item<float>() < 1e-5);
        // A module that only one of them has.
        const string only = "model.layers.1.self_attn.o_proj";
        Assert.True((Delta(output, only) - (Delta(two.Location, only) * -1.5)).abs().max().item<float>() < 1e-5);
    }

    [Fact]
    public void One_adapter_with_weight_one_stays_what_it_is()
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "out");
        using AdapterFolder one = AdapterFolder.Open(Fixtures.Path("adapters/patterns"));
        AdapterCombiner.Combine([new(one, 1)], new CombineOptions(), output);
        using var scope = NewDisposeScope();
        foreach (string module in AdapterReader.Modules(one))
        {
            Assert.True((Delta(output, module) - Delta(one.Location, module)).abs().max().item<float>() < 1e-5);
        }
    }

    [Fact]
    public void Ranks_that_cannot_be_added_are_named()
    {
        using AdapterFolder one = AdapterFolder.Open(Fixtures.Path("adapters/plain_qv"));
        using AdapterFolder two = AdapterFolder.Open(Fixtures.Path("adapters/rslora"));
        string message = Assert.Throws<LoraSharpException>(() => AdapterCombiner.Combine([new(one, 1), new(two, 1)], new CombineOptions(), "never")).Message;
        Assert.Contains(": 8", message, StringComparison.Ordinal);
        Assert.Contains(": 16", message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(-0.1)]
    [InlineData(1.5)]
    public void A_density_outside_0_to_1_is_refused(double density) =>
        Assert.Contains("density", Assert.Throws<LoraSharpException>(new CombineOptions { Method = CombineMethod.Ties, Density = density }.Validate).Message, StringComparison.Ordinal);

    [Fact]
    public void Dare_depends_on_its_seed_alone_and_keeps_the_mean()
    {
        using var scope = NewDisposeScope();
        Tensor value = ones(200, 200);
        Tensor Run(ulong seed)
        {
            using var generator = new Generator(seed, CPU);
            return new TaskVectors(TaskMethod.DareLinear, 0.3, false, generator).Combine([value], [1]);
        }

        Assert.True(Run(1).Equals(Run(1)));
        Assert.False(Run(1).Equals(Run(2)));
        Assert.InRange(Run(1).mean().item<float>(), 0.97f, 1.03f);
    }
}
