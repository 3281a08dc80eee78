using static TorchSharp.torch;

namespace LoraSharp.Training.Optimizers;

/// <summary>
/// Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers"): Nesterov momentum whose direction is made nearly
/// orthogonal by five Newton-Schulz steps, scaled by 0.2·√max(rows, columns) to the size of an AdamW update (arXiv
/// 2502.16982, section 2.2), so that AdamW's learning rates fit. Vectors, embeddings and heads are updated by AdamW.
/// </summary>
public sealed class Muon : Optimizer
{
    // The quintic iteration's coefficients: the steepest slope at 0 for which the iteration still converges to about 1.
    private const float A = 3.4445f, B = -4.7750f, C = 2.0315f;
    private const int Iterations = 5;
    private readonly TrainerOptions _options;
    private readonly double _momentum;

    /// <summary>Creates the optimizer.</summary>
    public Muon(GradientBuffer gradients, IReadOnlyList<ParameterGroup> groups, TrainerOptions options)
        : base(gradients, groups)
    {
        ArgumentNullException.ThrowIfNull(options);
        _options = options;
        _momentum = options.Momentum ?? 0.95;
        foreach (TrainedParameter parameter in Groups.SelectMany(g => g.Parameters))
        {
            if (IsMatrix(parameter))
            {
                StateOf(parameter, "momentum");
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
        foreach (TrainedParameter parameter in group.Parameters)
        {
            using var scope = NewDisposeScope();
            Tensor weight = parameter.Weight.mul_(1 - (learningRate * group.WeightDecay));
            if (IsMatrix(parameter))
            {
                Tensor momentum = StateOf(parameter, "momentum").mul_(_momentum).add_(parameter.Gradient);
                Tensor direction = Orthogonal(parameter.Gradient.add(momentum, _momentum));
                double size = 0.2 * Math.Sqrt(Math.Max(weight.shape[0], weight.shape[1]));
                weight.add_(direction, -learningRate * size);
            }
            else
            {
                AdamStep(parameter, weight, learningRate);
            }
        }
    }

    /// <summary>The nearest matrix with singular values of about 1.</summary>
    internal static Tensor Orthogonal(Tensor matrix)
    {
        using var scope = NewDisposeScope();
        bool tall = matrix.shape[0] > matrix.shape[1];
        Tensor x = tall ? matrix.t() : matrix;
        x = x / (x.norm() + 1e-7);
        for (int i = 0; i < Iterations; i++)
        {
            Tensor gram = x.mm(x.t());
            Tensor polynomial = addmm(gram, gram, gram, B, C);
            x = addmm(x, polynomial, x, A, 1);
        }

        return (tall ? x.t() : x).MoveToOuterDisposeScope();
    }

    private static bool IsMatrix(TrainedParameter parameter) =>
        parameter.Parameter.dim() == 2 && !parameter.Name.Contains("embed", StringComparison.Ordinal)
        && !parameter.Name.Contains("lm_head", StringComparison.Ordinal) && !parameter.Name.Contains("wte", StringComparison.Ordinal)
        && !parameter.Name.Contains("wpe", StringComparison.Ordinal);

    private void AdamStep(TrainedParameter parameter, Tensor weight, double learningRate)
    {
        Tensor first = StateOf(parameter, "exp_avg").mul_(_options.Beta1).add_(parameter.Gradient, 1 - _options.Beta1);
        Tensor second = StateOf(parameter, "exp_avg_sq").mul_(_options.Beta2).addcmul_(parameter.Gradient, parameter.Gradient, 1 - _options.Beta2);
        Tensor denominator = second.sqrt().div_(Math.Sqrt(1 - Math.Pow(_options.Beta2, Steps))).add_(_options.Epsilon);
        weight.addcdiv_(first, denominator, -learningRate / (1 - Math.Pow(_options.Beta1, Steps)));
    }
}
