using LoraSharp.Layers;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Training;
using LoraSharp.Training.Optimizers;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

public sealed class AdamW8bitTests
{
    public AdamW8bitTests() => NativeRuntime.EnsureLoaded();

    [Fact]
    public void NearestCodeIsTheNearest()
    {
        var random = new Random(1);
        foreach (DynamicMap map in (DynamicMap[])[DynamicMap.Signed, DynamicMap.Unsigned])
        {
            for (int i = 0; i < 20000; i++)
            {
                float value = (float)((random.NextDouble() * 2) - 1) * MathF.Pow(10, -random.Next(9));
                float distance = map.Values.Min(v => Math.Abs((double)v - value)) is var d ? (float)d : 0;
                Assert.Equal(distance, (float)Math.Abs((double)map.Values[map.Nearest(value)] - value), 1e-7f * distance);
            }

            Assert.Equal(0f, map.Values[map.Nearest(0f)]);
            Assert.Equal(255, map.Nearest(1f));
        }
    }

    /// <summary>A regression problem: the 8-bit run ends where the float32 run ends.</summary>
    [Fact]
    public void ConvergesAsAdamWDoes()
    {
        double plain = Run(OptimizerKind.AdamW, out _);
        double quantized = Run(OptimizerKind.AdamW8bit, out long bytes);
        Assert.InRange(quantized, plain * 0.8, plain * 1.2);

        // 128 · 64 weights in 32 blocks: two codes a weight, two scales a block; and a bias in float32.
        Assert.Equal((2 * 8192) + (2 * 32 * 4) + (2 * 64 * 4), bytes);
    }

    [Fact]
    public void ResumesExactly()
    {
        using var scope = NewDisposeScope();
        (Tensor weight, GradientBuffer gradients, AdamW8bit optimizer) = Problem(3);
        using (gradients)
        using (optimizer)
        {
            Tensor noise = randn(12, 128, 64);
            for (int i = 0; i < 6; i++)
            {
                Step(i);
            }

            Dictionary<string, Tensor> saved = optimizer.State.ToDictionary(s => s.Name, s => s.Value.clone());
            Tensor before = weight.detach().clone();
            for (int i = 6; i < 12; i++)
            {
                Step(i);
            }

            Tensor first = weight.detach().clone();
            using (no_grad())
            {
                weight.copy_(before);
                foreach (NamedTensor state in optimizer.State)
                {
                    state.Value.copy_(saved[state.Name]);
                }
            }

            optimizer.Restored(6);
            for (int i = 6; i < 12; i++)
            {
                Step(i);
            }

            Assert.True(first.equal(weight).all().item<bool>());

            void Step(int i)
            {
                gradients.Parameters[0].Gradient.copy_(noise[i]);
                optimizer.Step(1);
            }
        }
    }

    private static (Tensor Weight, GradientBuffer Gradients, AdamW8bit Optimizer) Problem(long seed)
    {
        random.manual_seed(seed);
        Tensor weight = randn(128, 64, requires_grad: true);
        var options = new TrainerOptions { LearningRate = 1e-2, WeightDecay = 0.01 };
        NamedTensor[] parameters = [new("w", weight)];
        var gradients = new GradientBuffer(parameters);
        return (weight, gradients, new AdamW8bit(gradients, ParameterGroup.Create(parameters, options), options));
    }

    private static double Run(OptimizerKind kind, out long bytes)
    {
        using var scope = NewDisposeScope();
        random.manual_seed(5);
        Tensor x = randn(256, 128);
        Tensor target = x.mm(randn(128, 64)) + (0.1 * randn(256, 64));
        Tensor weight = zeros(128, 64, requires_grad: true);
        Tensor bias = zeros(64, requires_grad: true);
        var options = new TrainerOptions { LearningRate = 2e-2, WeightDecay = 0.01 };
        NamedTensor[] parameters = [new("w", weight), new("b", bias)];
        using var gradients = new GradientBuffer(parameters);
        IReadOnlyList<ParameterGroup> groups = ParameterGroup.Create(parameters, options);
        using Optimizer optimizer = kind == OptimizerKind.AdamW ? new AdamW(gradients, groups, options) : new AdamW8bit(gradients, groups, options);
        double last = 0;
        for (int i = 0; i < 200; i++)
        {
            using var step = NewDisposeScope();
            gradients.Clear();
            Tensor loss = nn.functional.mse_loss(x.mm(weight) + bias, target);
            loss.backward();
            optimizer.Step(1 - (i / 200.0));
            last = loss.item<float>();
        }

        bytes = optimizer.State.Sum(s => s.Value.NumberOfElements * s.Value.ElementSize);
        return last;
    }
}
