namespace LoraSharp.Training.Preferences;

/// <summary>Log-probabilities of a pair's answers, sums or means over their tokens.</summary>
/// <param name="Chosen">Of the better answer under what is trained.</param>
/// <param name="Rejected">Of the worse one.</param>
/// <param name="ReferenceChosen">Of the better answer under the reference; 0 without one.</param>
/// <param name="ReferenceRejected">Of the worse one.</param>
public readonly record struct PairLogProbabilities(double Chosen, double Rejected, double ReferenceChosen = 0, double ReferenceRejected = 0);

/// <summary>A loss and its derivatives by the log-probabilities under what is trained.</summary>
/// <param name="Loss">Value.</param>
/// <param name="ByChosen">∂loss/∂log p(chosen).</param>
/// <param name="ByRejected">∂loss/∂log p(rejected).</param>
public readonly record struct PairLoss(double Loss, double ByChosen, double ByRejected);

/// <summary>
/// The losses as functions of a few numbers a pair, in double precision with their derivatives written down: autograd
/// never sees them, a pair's gradient is two factors on the gradients of its answers' log-probabilities.
/// </summary>
public static class PreferenceLoss
{
    /// <summary>Loss of a pair; not for KTO.</summary>
    public static PairLoss OfPair(PreferenceOptions options, PairLogProbabilities p)
    {
        ArgumentNullException.ThrowIfNull(options);
        double beta = options.Beta;
        double margin = p.Chosen - p.Rejected - (p.ReferenceChosen - p.ReferenceRejected);
        switch (options.Kind)
        {
            case PreferenceKind.Sigmoid:
                return Antisymmetric(Sigmoidal(beta * margin, beta, options.LabelSmoothing));
            case PreferenceKind.SimPo:
                return Antisymmetric(Sigmoidal((beta * (p.Chosen - p.Rejected)) - options.Gamma, beta, options.LabelSmoothing));
            case PreferenceKind.Hinge:
                double missing = 1 - (beta * margin);
                return Antisymmetric((Math.Max(0, missing), missing > 0 ? -beta : 0));
            case PreferenceKind.Ipo:
                double off = margin - (1 / (2 * beta));
                return Antisymmetric((off * off, 2 * off));
            case PreferenceKind.Orpo:
                return OddsRatio(p, beta);
            default:
                throw new ArgumentOutOfRangeException(nameof(options), options.Kind, "not a loss of pairs");
        }
    }

    /// <summary>Loss of a single judged answer (KTO) and its derivative by the answer's log-probability.</summary>
    /// <param name="options">β and the weights.</param>
    /// <param name="logRatio">log p − log p_reference of the answer.</param>
    /// <param name="divergence">Estimate of KL(policy‖reference), not negative, a constant.</param>
    /// <param name="isDesirable">The verdict.</param>
    public static (double Loss, double ByAnswer) OfJudged(PreferenceOptions options, double logRatio, double divergence, bool isDesirable)
    {
        ArgumentNullException.ThrowIfNull(options);
        double sign = isDesirable ? 1 : -1;
        double weight = isDesirable ? options.DesirableWeight : options.UndesirableWeight;
        double value = Sigmoid(sign * options.Beta * (logRatio - divergence));
        return (weight * (1 - value), -weight * sign * options.Beta * value * (1 - value));
    }

    private static PairLoss Antisymmetric((double Loss, double Derivative) of) => new(of.Loss, of.Derivative, -of.Derivative);

    // (1 − ε)·(−log σ(z)) + ε·(−log σ(−z)), z of slope beta in the margin.
    private static (double Loss, double Derivative) Sigmoidal(double z, double beta, double smoothing)
    {
        double loss = -((1 - smoothing) * LogSigmoid(z)) - (smoothing * LogSigmoid(-z));
        double derivative = (-(1 - smoothing) * Sigmoid(-z)) + (smoothing * Sigmoid(z));
        return (loss, beta * derivative);
    }

    private static PairLoss OddsRatio(PairLogProbabilities p, double beta)
    {
        // log odds(p) = log p − log(1 − p); its derivative by log p is 1 / (1 − p).
        double logOdds = p.Chosen - Log1MinusExp(p.Chosen) - (p.Rejected - Log1MinusExp(p.Rejected));
        double slope = -beta * Sigmoid(-logOdds);
        double loss = -p.Chosen - (beta * LogSigmoid(logOdds));
        return new(loss, -1 + (slope / -Expm1(p.Chosen)), -slope / -Expm1(p.Rejected));
    }

    private static double Sigmoid(double z) => z >= 0 ? 1 / (1 + Math.Exp(-z)) : Math.Exp(z) / (1 + Math.Exp(z));

    private static double LogSigmoid(double z) => z >= 0 ? -Log1P(Math.Exp(-z)) : z - Log1P(Math.Exp(z));

    // log(1 − eˣ) for x < 0 without cancellation (Mächler 2012, "Accurately computing log(1 − exp(−|a|))").
    private static double Log1MinusExp(double x) => x > -0.6931471805599453 ? Math.Log(-Expm1(x)) : Log1P(-Math.Exp(x));

    private static double Log1P(double x) => double.LogP1(x);

    private static double Expm1(double x) => double.ExpM1(x);
}
