using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Optimizers;

/// <summary>
/// AdamW (arXiv 1711.05101, algorithm 2): one native call a group (<c>_fused_adamw_</c>) where libtorch exports it,
/// the same in plain tensor operators elsewhere and as the reference.
/// </summary>
public sealed class AdamW : Optimizer
{
    private readonly double _beta1;
    private readonly double _beta2;
    private readonly double _epsilon;
    private readonly Dictionary<OptimizerGroup, FusedAdamW> _fused = new(ReferenceEqualityComparer.Instance);

    /// <summary>Creates the optimizer.</summary>
    /// <param name="gradients">Parameters and their gradients.</param>
    /// <param name="groups">Learning rates and decays.</param>
    /// <param name="options">Betas and epsilon.</param>
    /// <param name="fused">False: plain operators even where the fused one is there.</param>
    public AdamW(GradientBuffer gradients, IReadOnlyList<ParameterGroup> groups, TrainerOptions options, bool fused = true)
        : base(gradients, groups)
    {
        ArgumentNullException.ThrowIfNull(options);
        (_beta1, _beta2, _epsilon) = (options.Beta1, options.Beta2, options.Epsilon);
        foreach (OptimizerGroup group in Groups)
        {
            List<Tensor> first = [.. group.Parameters.Select(p => StateOf(p, "exp_avg"))];
            List<Tensor> second = [.. group.Parameters.Select(p => StateOf(p, "exp_avg_sq"))];
            if (fused && FusedAdamW.TryCreate([.. group.Parameters.Select(p => p.Weight)], [.. group.Parameters.Select(p => p.Gradient)], first, second) is { } native)
            {
                _fused.Add(group, native);
            }
        }
    }

    /// <summary>Whether the native operator is used.</summary>
    public bool IsFused => _fused.Count > 0;

    /// <inheritdoc/>
    protected override void Update(OptimizerGroup group, double learningRate)
    {
        ArgumentNullException.ThrowIfNull(group);
        if (_fused.TryGetValue(group, out FusedAdamW? fused))
        {
            fused.Step(Steps, learningRate, _beta1, _beta2, group.WeightDecay, _epsilon);
            return;
        }

        foreach (TrainedParameter parameter in group.Parameters)
        {
            Update(parameter, StateOf(parameter, "exp_avg"), StateOf(parameter, "exp_avg_sq"), learningRate, group.WeightDecay);
        }
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        foreach (FusedAdamW fused in _fused.Values)
        {
            fused.Dispose();
        }

        base.Dispose(disposing);
    }

    private void Update(TrainedParameter parameter, Tensor first, Tensor second, double learningRate, double decay)
    {
        using var scope = NewDisposeScope();
        double correction1 = 1 - Math.Pow(_beta1, Steps);
        double correction2 = 1 - Math.Pow(_beta2, Steps);
        Tensor gradient = parameter.Gradient;
        parameter.Weight.mul_(1 - (learningRate * decay));
        first.mul_(_beta1).add_(gradient, 1 - _beta1);
        second.mul_(_beta2).addcmul_(gradient, gradient, 1 - _beta2);
        Tensor denominator = second.sqrt().div_(Math.Sqrt(correction2)).add_(_epsilon);
        parameter.Weight.addcdiv_(first, denominator, -learningRate / correction1);
    }
}
