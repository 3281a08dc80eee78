using LoraSharp.Layers;
using LoraSharp.Tensors;
using LoraSharp.Training;
using LoraSharp.Training.Optimizers;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

public sealed class OptimizerTests
{
    public OptimizerTests() => NativeRuntime.EnsureLoaded();

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AdamWFollowsTheAlgorithm(bool fused)
    {
        // Scalar AdamW in double precision, straight from algorithm 2 of arXiv 1711.05101 with lr inside the decay as torch has it.
        double w = 0.5, m = 0, v = 0;
        const double Rate = 0.01, Decay = 0.1;
        using var setup = new Setup([0.5f, -1f], bfloat: false);
        using var adam = new AdamW(setup.Gradients, setup.Groups(Rate, Decay), new TrainerOptions(), fused);
        Assert.Equal(fused, adam.IsFused);
        for (int t = 1; t <= 5; t++)
        {
            double g = (0.3 * t) - 0.8;
            setup.SetGradient((float)g);
            adam.Step(0.5);
            double rate = Rate * 0.5;
            w *= 1 - (rate * Decay);
            m = (0.9 * m) + (0.1 * g);
            v = (0.999 * v) + (0.001 * g * g);
            w -= rate * (m / (1 - Math.Pow(0.9, t))) / (Math.Sqrt(v / (1 - Math.Pow(0.999, t))) + 1e-8);
        }

        Assert.Equal(w, setup.Value(0), 6);
    }

    [Fact]
    public void LowPrecisionParametersHaveFloat32Masters()
    {
        using var setup = new Setup([1f, 1f], bfloat: true);
        using var adam = new AdamW(setup.Gradients, setup.Groups(1e-4, 0), new TrainerOptions());
        for (int i = 0; i < 40; i++)
        {
            setup.SetGradient(1);
            adam.Step(1);
        }

        // 1e-4 is below half a bfloat16 step at 1: without a master copy the parameter would never move.
        Assert.Equal(1 - (40 * 1e-4), setup.Gradients.Parameters[0].Weight[0].item<float>(), 5);
        Assert.Equal(0.99609375, setup.Value(0), 6);
    }

    [Fact]
    public void TiedParametersAreOneAndTheirGradientsAddUp()
    {
        using Tensor table = ones(3, 2);
        using Tensor first = table.alias().requires_grad_();
        using Tensor second = table.alias().requires_grad_();
        using var gradients = new GradientBuffer([new("embed.weight", first), new("head.weight", second)]);
        Assert.Single(gradients.Parameters);
        using (Tensor loss = (first * 2).sum() + (second * 3).sum())
        {
            loss.backward();
        }

        using Tensor five = full_like(table, 5);
        Assert.True(Same(gradients.Parameters[0].Gradient, five));
        using var sgd = new Sgd(gradients, ParameterGroup.Create([new("embed.weight", first), new("head.weight", second)], new TrainerOptions { LearningRate = 0.1 }), 0);
        sgd.Step(1);
        Assert.Equal(0.5f, second[0, 0].item<float>(), 6);
    }

    [Theory]
    [InlineData(0.5)]
    [InlineData(100.0)]
    public void ClippingIsThatOfTorch(double max)
    {
        using var setup = new Setup([3f, 4f], bfloat: false);
        setup.SetGradients([3f, 4f]);
        using Tensor norm = setup.Gradients.Norm();
        Assert.Equal(5f, norm.item<float>(), 5);
        setup.Gradients.Clip(norm, max);
        double factor = Math.Min(1, max / (5 + 1e-6));
        Assert.Equal(3 * factor, setup.Gradients.Parameters[0].Gradient[0].item<float>(), 6);
    }

    [Fact]
    public void LoraPlusGroupsAsPeftDoes()
    {
        using Tensor matrix = ones(2, 2);
        using Tensor vector = ones(2);
        NamedTensor[] parameters =
        [
            new("l.lora_A.default.weight", matrix), new("l.lora_B.default.weight", matrix),
            new("l.lora_magnitude_vector.default.weight", vector), new("e.lora_embedding_A.default", matrix),
        ];
        IReadOnlyList<ParameterGroup> groups = ParameterGroup.Create(parameters, new TrainerOptions { LearningRate = 1e-3, LoraPlusRatio = 16, WeightDecay = 0.1, DecayVectors = false });
        string Describe(ParameterGroup g) => FormattableString.Invariant($"{g.LearningRate}/{g.WeightDecay}: {string.Join(' ', g.Parameters.Select(p => p.Name))}");
        Assert.Equal(
            [
                "0.001/0.1: l.lora_A.default.weight", "0.016/0.1: l.lora_B.default.weight",
                "0.016/0: l.lora_magnitude_vector.default.weight", "1E-06/0.1: e.lora_embedding_A.default",
            ],
            groups.Select(Describe));
    }

    [Fact]
    public void StateGoesOnWhereItWasSaved()
    {
        using var first = new Setup([0.5f, -1f], bfloat: true);
        using var second = new Setup([0.1f, 0.1f], bfloat: true);
        using var a = new AdamW(first.Gradients, first.Groups(0.01, 0.1), new TrainerOptions());
        using var b = new AdamW(second.Gradients, second.Groups(0.01, 0.1), new TrainerOptions());
        for (int i = 0; i < 3; i++)
        {
            first.SetGradient(0.3f * i);
            a.Step(1);
        }

        foreach ((NamedTensor from, NamedTensor to) in a.State.Zip(b.State))
        {
            Assert.Equal(from.Name, to.Name);
            to.Value.copy_(from.Value);
        }

        b.Restored(a.Steps);
        first.SetGradient(0.7f);
        second.SetGradient(0.7f);
        a.Step(1);
        b.Step(1);
        Assert.True(Same(first.Gradients.Parameters[0].Weight, second.Gradients.Parameters[0].Weight));
        Assert.True(Same(first.Gradients.Parameters[0].Parameter, second.Gradients.Parameters[0].Parameter));
    }

    [Fact]
    public void MuonMakesTheDirectionOrthogonal()
    {
        using var scope = NewDisposeScope();
        Tensor matrix = randn([6, 4], generator: new Generator(3));
        Tensor direction = Muon.Orthogonal(matrix);
        (_, Tensor values, _) = linalg.svd(direction, fullMatrices: false);
        Assert.All(values.data<float>().ToArray(), s => Assert.InRange(s, 0.6, 1.3));

        // The same singular vectors: the product with the matrix is symmetric.
        Tensor product = matrix.t().mm(direction);
        Assert.True((product - product.t()).abs().max().item<float>() < 1e-3);
    }

    private static bool Same(Tensor a, Tensor b)
    {
        using Tensor equal = a.eq(b);
        using Tensor all = equal.all();
        return all.item<bool>();
    }

    private sealed class Setup : IDisposable
    {
        private readonly Tensor _parameter;

        public Setup(float[] values, bool bfloat)
        {
            using Tensor plain = tensor(values);
            _parameter = plain.to(bfloat ? ScalarType.BFloat16 : ScalarType.Float32, copy: true).requires_grad_();
            Gradients = new GradientBuffer([new("w", _parameter)]);
        }

        public GradientBuffer Gradients { get; }

        public IReadOnlyList<ParameterGroup> Groups(double rate, double decay) => [new([new("w", _parameter)], rate, decay)];

        public void SetGradient(float value) => Gradients.Parameters[0].Gradient.fill_(value);

        public void SetGradients(float[] values)
        {
            using Tensor all = tensor(values);
            Gradients.Parameters[0].Gradient.copy_(all);
        }

        public double Value(int index)
        {
            using Tensor element = _parameter[index];
            using Tensor wide = element.to(ScalarType.Float64);
            return wide.item<double>();
        }

        public void Dispose()
        {
            Gradients.Dispose();
            _parameter.Dispose();
        }
    }
}
