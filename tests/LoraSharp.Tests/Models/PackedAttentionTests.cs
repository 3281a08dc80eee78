using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

/// <summary>Packed rows sequence by sequence against the same rows whole under a mask: outputs and gradients.</summary>
public sealed class PackedAttentionTests
{
    private static readonly long[] Rows =
    [
        1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 0, 0, 0, 0,
        1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3,
        0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 0,
    ];

    public static TheoryData<string, int?, double?, bool, int> Specs => new()
    {
        { "plain", null, null, false, 8 },
        { "window", 3, null, false, 8 },
        { "soft cap", null, 5.0, false, 8 },
        { "soft cap and window", 4, 5.0, false, 8 },
        { "sinks", null, null, true, 8 },
        { "sinks and window", 2, null, true, 8 },
        { "narrow values", null, null, false, 4 },
    };

    [Theory]
    [MemberData(nameof(Specs))]
    public void Sequences_by_themselves_equal_the_masked_row(string name, int? window, double? cap, bool sinks, int valueSize)
    {
        using var scope = NewDisposeScope();
        Tensor sequences = tensor(Rows, [3, 16]);
        var random = new Generator(7);
        Tensor Random(params long[] shape) => randn(shape, generator: random);
        Tensor[] inputs = [Random(3, 16, 4, 8).transpose(1, 2), Random(3, 2, 16, 8), Random(3, 16, 2, valueSize).transpose(1, 2), Random(4)];
        Tensor weights = Random(3, 4, 16, valueSize);
        (Tensor Output, Tensor[] Gradients) Run(bool masked)
        {
            Tensor[] leaves = [.. inputs.Select(i => i.detach().clone().requires_grad_())];
            using var attention = new SequenceAttention(sequences, masked);
            var spec = new AttentionSpec { Scale = 0.4, Window = window, SoftCap = cap, Sinks = sinks ? leaves[3] : null };
            Tensor output = attention.Attend(0, leaves[0], leaves[1], leaves[2], spec);
            (output * weights).sum().backward();
            return (output.detach(), [.. leaves.Where(l => l.grad is not null).Select(l => l.grad!)]);
        }

        (Tensor expected, Tensor[] expectedGradients) = Run(masked: true);
        (Tensor found, Tensor[] foundGradients) = Run(masked: false);
        Assert.Equal(expected.shape, found.shape);
        Near(expected, found, name);
        Assert.Equal(sinks ? 4 : 3, foundGradients.Length);
        foreach ((Tensor e, Tensor f) in expectedGradients.Zip(foundGradients))
        {
            Near(e, f, name + ", gradient");
        }
    }

    [Fact]
    public void A_sequence_in_two_pieces_is_seen_whole()
    {
        using var scope = NewDisposeScope();
        Tensor sequences = tensor(new long[] { 1, 1, 2, 2, 1, 1 }, [1, 6]);
        var random = new Generator(8);
        Tensor q = randn([1, 2, 6, 8], generator: random), k = randn([1, 2, 6, 8], generator: random), v = randn([1, 2, 6, 8], generator: random);
        using var fast = new SequenceAttention(sequences);
        using var masked = new SequenceAttention(sequences, masked: true);
        var spec = new AttentionSpec { Scale = 0.3 };
        Near(masked.Attend(0, q, k, v, spec), fast.Attend(0, q, k, v, spec), "two pieces");
    }

    [Fact]
    public void Nothing_is_left_behind()
    {
        using var scope = NewDisposeScope();
        Tensor sequences = tensor(Rows, [3, 16]);
        Tensor q = randn([3, 4, 16, 8]), k = randn([3, 2, 16, 8]), v = randn([3, 2, 16, 8]);
        long before = Tensor.TotalCount;
        using (var attention = new SequenceAttention(sequences))
        {
            attention.Attend(0, q, k, v, new AttentionSpec { Scale = 0.3, Window = 3 }).Dispose();
        }

        Assert.Equal(before, Tensor.TotalCount);
    }

    private static void Near(Tensor expected, Tensor found, string what)
    {
        double difference = (expected - found).abs().max().item<float>();
        Assert.True(difference <= 2e-6, $"{what}: differs by {difference}");
    }
}
