using System.Globalization;

namespace LoraSharp.Training.Sweeps;

/// <summary>Which trial to take, and why.</summary>
/// <param name="Best">The adapter with the lowest loss.</param>
/// <param name="Recommended">The smallest adapter whose loss is as good as the best within the tolerance.</param>
/// <param name="Reasons">In words.</param>
public sealed record SweepRecommendation(TrialResult Best, TrialResult Recommended, IReadOnlyList<string> Reasons)
{
    /// <summary>Looks at the results.</summary>
    /// <param name="results">At least one without a fault.</param>
    /// <param name="tolerance">Share by which a loss may be higher and still count as as good.</param>
    /// <returns>Null when every adapter failed.</returns>
    public static SweepRecommendation? From(IReadOnlyList<TrialResult> results, double tolerance = 0.01)
    {
        ArgumentNullException.ThrowIfNull(results);
        TrialResult[] ranked = [.. results.Where(r => !r.Trial.IsFull && double.IsFinite(r.Score)).OrderBy(r => r.Score)];
        if (ranked.Length == 0)
        {
            return null;
        }

        TrialResult best = ranked[0];
        TrialResult[] asGood = [.. ranked.Where(r => !r.Stopped && r.Score <= best.Score * (1 + tolerance))];
        TrialResult chosen = asGood.Length == 0 ? best : asGood.OrderBy(r => r.TrainableParameters).ThenBy(r => r.Score).First();
        List<string> reasons = [Invariant($"{best.Trial.Name} has the lowest loss, {best.Score:0.####}.")];
        if (chosen != best)
        {
            reasons.Add(Invariant($"{chosen.Trial.Name} is within {tolerance:0.#%} of it ({chosen.Score:0.####}) with {chosen.TrainableParameters / (double)best.TrainableParameters:0.##} times the parameters."));
        }

        if (results.Where(r => r.Trial.IsFull && double.IsFinite(r.Score)).MinBy(r => r.Score) is { } ceiling)
        {
            double gap = (chosen.Score / ceiling.Score) - 1;
            reasons.Add(Invariant($"Training every weight ({ceiling.Trial.Name}) reaches {ceiling.Score:0.####}: {chosen.Trial.Name} is {Math.Abs(gap):0.#%} {(gap > 0 ? "above" : "below")} it with {chosen.TrainableParameters / (double)ceiling.TrainableParameters:0.###%} of the parameters."));
        }

        double[] rates = [.. ranked.Select(r => r.Trial.Training.LearningRate).Distinct().Order()];
        if (rates.Length > 1 && best.Trial.Training.LearningRate == rates[^1])
        {
            reasons.Add(Invariant($"The highest learning rate tried ({rates[^1]:0.######}) is the best: a higher one may be better still."));
        }
        else if (rates.Length > 1 && best.Trial.Training.LearningRate == rates[0])
        {
            reasons.Add(Invariant($"The lowest learning rate tried ({rates[0]:0.######}) is the best: a lower one may be better still."));
        }

        reasons.AddRange(results.Where(r => r.Fault is not null).Select(r => $"{r.Trial.Name} failed at {r.Fault}."));
        return new(best, chosen, reasons);
    }

    private static string Invariant(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
