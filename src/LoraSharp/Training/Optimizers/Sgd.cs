using static TorchSharp.torch;

namespace LoraSharp.Training.Optimizers;

/// <summary>w ← w − lr·(buffer), buffer ← momentum·buffer + g: torch.optim.SGD, with decoupled weight decay.</summary>
public sealed class Sgd : Optimizer
{
    private readonly double _momentum;

    /// <summary>Creates the optimizer.</summary>
    public Sgd(GradientBuffer gradients, IReadOnlyList<ParameterGroup> groups, double momentum)
        : base(gradients, groups)
    {
        _momentum = momentum;
        foreach (TrainedParameter parameter in momentum > 0 ? Groups.SelectMany(g => g.Parameters) : [])
        {
            StateOf(parameter, "momentum");
        }
    }

    /// <inheritdoc/>
    protected override void Update(OptimizerGroup group, double learningRate)
    {
        ArgumentNullException.ThrowIfNull(group);
        using var scope = NewDisposeScope();
        foreach (TrainedParameter parameter in group.Parameters)
        {
            Tensor direction = parameter.Gradient;
            if (_momentum > 0)
            {
                direction = StateOf(parameter, "momentum").mul_(_momentum).add_(parameter.Gradient);
            }

            parameter.Weight.mul_(1 - (learningRate * group.WeightDecay)).add_(direction, -learningRate);
        }
    }
}
