using LoraSharp.Tensors;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

public sealed class ChunkedCrossEntropyTests
{
    private const int Tokens = 37, Width = 8, Vocabulary = 50;

    public ChunkedCrossEntropyTests() => NativeRuntime.EnsureLoaded();

    [Theory]
    [InlineData(0, 0, false, true, false)]
    [InlineData(0, 0, true, false, false)]
    [InlineData(0.1, 0, true, true, false)]
    [InlineData(0.1, 1e-2, false, false, false)]
    [InlineData(0, 1e-2, true, false, true)]
    public void EqualsTheWholeLogitsThroughAutograd(double smoothing, double zLoss, bool weighted, bool frozen, bool softCap)
    {
        using var scope = NewDisposeScope();
        var random = new Generator(5);
        Tensor hidden = randn([Tokens, Width], generator: random);
        Tensor head = randn([Vocabulary, Width], generator: random).requires_grad_(!frozen);
        Tensor targets = randint(0, Vocabulary, [Tokens], ScalarType.Int64, generator: random);
        Tensor? weights = weighted ? rand([Tokens], generator: random) : null;
        Func<Tensor, Tensor> logits = h => softCap ? (h.matmul(head.t()) / 5).tanh() * 5 : h.matmul(head.t());

        // The plain way: all logits in float64 through autograd.
        Tensor whole = hidden.clone().requires_grad_();
        Tensor z = logits(whole).to(ScalarType.Float64);
        Tensor token = nn.functional.cross_entropy(z, targets, reduction: nn.Reduction.None, label_smoothing: smoothing)
            + (z.logsumexp(1).pow(2) * zLoss);
        ((weights is null ? token : token * weights).sum() * 0.25).backward();
        Tensor? headGradient = head.grad?.clone();
        head.grad?.zero_();

        // 16 tokens a piece: three pieces, the last one short.
        var chunked = new ChunkedCrossEntropy(logits, frozen, Vocabulary, 1, smoothing, zLoss);
        Tensor gradient = chunked.Backward(hidden, targets, weights, 0.25, out Tensor losses);
        Close(token.to(ScalarType.Float32), losses);
        Close(whole.grad!, gradient);
        if (!frozen)
        {
            Close(headGradient!, head.grad!);
        }
    }

    [Fact]
    public void EvaluationNeverSmooths()
    {
        using var scope = NewDisposeScope();
        var random = new Generator(6);
        Tensor hidden = randn([Tokens, Width], generator: random);
        Tensor head = randn([Vocabulary, Width], generator: random);
        Tensor targets = randint(0, Vocabulary, [Tokens], ScalarType.Int64, generator: random);
        var chunked = new ChunkedCrossEntropy(h => h.matmul(head.t()), true, Vocabulary, 1, 0.3, 0.1);
        Tensor losses = chunked.Losses(hidden, targets, true, out Tensor? hits);
        Tensor z = hidden.mm(head.t());
        Close(nn.functional.cross_entropy(z, targets, reduction: nn.Reduction.None), losses);
        Assert.Equal(z.argmax(1).eq(targets).sum().item<long>(), hits!.sum().item<long>());
    }

    [Fact]
    public void TargetsAreShiftedWithinTheirSequences()
    {
        // Row 0: two packed sequences and padding; row 1: one sequence whose first label is given although nothing predicts it.
        MicroBatch batch = new()
        {
            Rows = 2,
            Length = 6,
            InputIds = [5, 6, 7, 8, 9, 0, 11, 12, 13, 14, 15, 16],
            Labels = [-100, 6, -100, 8, 9, -100, 11, 12, -100, 14, 15, 16],
            Positions = [0, 1, 0, 1, 2, 0, 0, 1, 2, 3, 4, 5],
            Sequences = [1, 1, 2, 2, 2, 0, 1, 1, 1, 1, 1, 1],
            Origins = ["a", "b", "c"],
        };
        TargetTokens targets = TargetTokens.Of(batch);
        Assert.Equal([0, 2, 3, 6, 8, 9, 10], targets.Positions);
        Assert.Equal([6, 8, 9, 12, 14, 15, 16], targets.Ids);
        Assert.Equal([0, 1, 1, 2, 2, 2, 2], targets.Sequences);
        Assert.Equal(3, targets.SequenceCount);
        Assert.Equal(7, targets.Weight);
        using var scope = NewDisposeScope();
        Assert.Equal([1f, 2f, 4f], targets.SumBySequence(ones(7)).data<float>().ToArray());
    }

    private static void Close(Tensor expected, Tensor actual)
    {
        Assert.Equal(expected.shape, actual.shape);
        double difference = (expected - actual).abs().max().to(ScalarType.Float64).item<double>();
        Assert.True(difference < 2e-6, $"differs by {difference}");
    }
}
