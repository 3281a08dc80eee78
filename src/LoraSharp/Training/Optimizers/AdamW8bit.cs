using LoraSharp.Quantization;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Optimizers;

/// <summary>
/// AdamW with moments of 8 bits each in blocks of 256 (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
/// Quantization"): 2.03 bytes of state a parameter instead of 8. Parameters of fewer than 4,096 values keep float32
/// moments, as bitsandbytes' <c>min_8bit_size</c> has it.
/// </summary>
/// <remarks>
/// The 8-bit moments lie in host memory whatever the device, and are updated there: what a paged optimizer is for, less
/// the paging. On a GPU a step moves the gradient down and the weight up and down.
/// </remarks>
public sealed unsafe class AdamW8bit : Optimizer
{
    /// <summary>Parameters with fewer values are updated in float32.</summary>
    public const long SmallestQuantized = 4096;

    private readonly TrainerOptions _options;

    /// <summary>Creates the optimizer.</summary>
    public AdamW8bit(GradientBuffer gradients, IReadOnlyList<ParameterGroup> groups, TrainerOptions options)
        : base(gradients, groups)
    {
        ArgumentNullException.ThrowIfNull(options);
        _options = options;
        foreach (TrainedParameter parameter in Groups.SelectMany(g => g.Parameters))
        {
            if (IsQuantized(parameter))
            {
                CodesOf(parameter, "state1");
                ScalesOf(parameter, "absmax1");
                CodesOf(parameter, "state2");
                ScalesOf(parameter, "absmax2");
            }
            else
            {
                StateOf(parameter, "exp_avg");
                StateOf(parameter, "exp_avg_sq");
            }
        }
    }

    /// <inheritdoc/>
    protected override void Update(OptimizerGroup group, double learningRate)
    {
        ArgumentNullException.ThrowIfNull(group);
        var step = new AdamWStep(learningRate, _options.Beta1, _options.Beta2, _options.Epsilon, group.WeightDecay, Steps);
        foreach (TrainedParameter parameter in group.Parameters)
        {
            using var scope = NewDisposeScope();
            if (IsQuantized(parameter))
            {
                Quantized(parameter, step);
            }
            else
            {
                Plain(parameter, step);
            }
        }
    }

    private static bool IsQuantized(TrainedParameter parameter) => parameter.Weight.NumberOfElements >= SmallestQuantized;

    private void Quantized(TrainedParameter parameter, AdamWStep step)
    {
        Tensor weight = parameter.Weight.detach().cpu().contiguous();
        Tensor gradient = parameter.Gradient.cpu().contiguous();
        AdamW8bitKernel.Update(
            (float*)AtenTensor.DataPointer(weight),
            (float*)AtenTensor.DataPointer(gradient),
            (byte*)AtenTensor.DataPointer(CodesOf(parameter, "state1")),
            (float*)AtenTensor.DataPointer(ScalesOf(parameter, "absmax1")),
            (byte*)AtenTensor.DataPointer(CodesOf(parameter, "state2")),
            (float*)AtenTensor.DataPointer(ScalesOf(parameter, "absmax2")),
            weight.NumberOfElements,
            step);
        if (AtenTensor.DataPointer(weight) != AtenTensor.DataPointer(parameter.Weight))
        {
            parameter.Weight.copy_(weight);
        }
    }

    private void Plain(TrainedParameter parameter, AdamWStep step)
    {
        Tensor first = StateOf(parameter, "exp_avg").mul_(step.Beta1).add_(parameter.Gradient, 1 - step.Beta1);
        Tensor second = StateOf(parameter, "exp_avg_sq").mul_(step.Beta2).addcmul_(parameter.Gradient, parameter.Gradient, 1 - step.Beta2);
        Tensor denominator = second.sqrt().div_(Math.Sqrt(1 - Math.Pow(step.Beta2, step.Step))).add_(step.Epsilon);
        parameter.Weight.mul_(1 - (step.LearningRate * step.WeightDecay));
        parameter.Weight.addcdiv_(first, denominator, -step.LearningRate / (1 - Math.Pow(step.Beta1, step.Step)));
    }

    private Tensor CodesOf(TrainedParameter parameter, string kind) =>
        StateOf(parameter, kind, () => zeros([parameter.Weight.NumberOfElements], ScalarType.Byte));

    private Tensor ScalesOf(TrainedParameter parameter, string kind) =>
        StateOf(parameter, kind, () => zeros([AdamW8bitKernel.Blocks(parameter.Weight.NumberOfElements)], ScalarType.Float32));
}
