using CsCheck;
using LoraSharp.Adapters;
using LoraSharp.Adapters.Analysis;
using LoraSharp.Adapters.Combining;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

/// <summary>What must hold for any factors.</summary>
public sealed class AdapterPropertyTests
{
    private static readonly Gen<(int F, int K, int R, double Scaling, int Seed)> Shapes =
        Gen.Select(Gen.Int[1, 40], Gen.Int[1, 40], Gen.Int[1, 6], Gen.Double[0.1, 4], Gen.Int[0, 1 << 20]);

    public AdapterPropertyTests() => NativeRuntime.EnsureLoaded();

    [Fact]
    public void Linear_with_weight_one_is_the_adapter() => Shapes.Sample(
        one =>
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)one.Seed, CPU);
            using AdapterModule module = Random(one.F, one.K, one.R, one.Scaling, generator);
            (Tensor a, Tensor b) = new Combination(new CombineOptions(), one.R, generator).Of([(module, 1)]);
            return Near(b.mm(a), module.Delta()!);
        },
        iter: 60,
        threads: 1);

    [Fact]
    public void Cat_is_the_weighted_sum_of_the_updates_whatever_ranks_and_signs() => Gen.Select(Shapes, Gen.Int[1, 6], Gen.Double[-2, 2], Gen.Double[-2, 2]).Sample(
        drawn =>
        {
            ((int f, int k, int r, double scaling, int seed), int other, double first, double second) = drawn;
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)seed, CPU);
            using AdapterModule one = Random(f, k, r, scaling, generator);
            using AdapterModule two = Random(f, k, other, scaling / 2, generator);
            (Tensor a, Tensor b) = new Combination(new CombineOptions { Method = CombineMethod.Cat }, r + other, generator).Of([(one, first), (two, second)]);
            return Near(b.mm(a), (one.Delta()! * first) + (two.Delta()! * second));
        },
        iter: 60,
        threads: 1);

    [Fact]
    public void Svd_of_the_full_rank_is_the_weighted_sum_too() => Gen.Select(Shapes, Gen.Int[1, 6]).Sample(
        drawn =>
        {
            ((int f, int k, int r, double scaling, int seed), int other) = drawn;
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)seed, CPU);
            using AdapterModule one = Random(f, k, r, scaling, generator);
            using AdapterModule two = Random(f, k, other, scaling, generator);
            (Tensor a, Tensor b) = new Combination(new CombineOptions { Method = CombineMethod.Svd }, r + other, generator).Of([(one, 0.7), (two, -0.4)]);
            return Near(b.mm(a), (one.Delta()! * 0.7) + (two.Delta()! * -0.4));
        },
        iter: 60,
        threads: 1);

    [Fact]
    public void Extraction_from_W_plus_BA_gives_BA() => Shapes.Sample(
        one =>
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)one.Seed, CPU);
            using AdapterModule module = Random(one.F, one.K, one.R, one.Scaling, generator);
            Tensor weight = randn(one.F, one.K, generator: generator);
            Tensor difference = (weight + module.Delta()!) - weight;
            (Tensor a, Tensor b, ExtractedModule report) = AdapterExtractor.Truncate("m", difference, new ExtractOptions { Rank = one.R }, generator);
            return report.Rank <= one.R && Near(b.mm(a), module.Delta()!);
        },
        iter: 60,
        threads: 1);

    [Fact]
    public void One_experts_update_is_its_part_of_the_stack() => Gen.Select(Shapes, Gen.Int[1, 5]).Sample(
        drawn =>
        {
            ((int f, int k, int r, double scaling, int seed), int experts) = drawn;
            using var scope = NewDisposeScope();
            using var generator = new Generator((ulong)seed, CPU);
            using var module = new AdapterModule("m", false)
            {
                Experts = experts,
                A = randn(experts * r, k, generator: generator).DetachFromDisposeScope(),
                B = randn(f, r * experts, generator: generator).DetachFromDisposeScope(),
                Scaling = scaling,
            };
            Tensor all = module.Delta()!;
            return Enumerable.Range(0, experts).All(e =>
            {
                (Tensor a, Tensor b) = module.OfExpert(e);
                return Near(b.mm(a) * scaling, all[e]);
            });
        },
        iter: 40,
        threads: 1);

    private static AdapterModule Random(int f, int k, int r, double scaling, Generator generator) => new("m", false)
    {
        A = randn(r, k, generator: generator).DetachFromDisposeScope(),
        B = randn(f, r, generator: generator).DetachFromDisposeScope(),
        Scaling = scaling,
    };

    private static bool Near(Tensor found, Tensor expected) =>
        (found - expected).abs().max().item<float>() <= 1e-5f * Math.Max(1, expected.abs().max().item<float>());
}
