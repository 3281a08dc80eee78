namespace LoraSharp.Evaluation;

/// <summary>Precision, recall and F1 of one class.</summary>
/// <param name="Label">The class.</param>
/// <param name="Score">Its precision and recall; 0 where there is nothing to divide by.</param>
/// <param name="Support">How many rows are of it.</param>
public sealed record ClassScore(string Label, FScore Score, int Support);

/// <summary>How well classes were told, as scikit-learn's <c>precision_recall_fscore_support</c> counts.</summary>
/// <param name="Accuracy">Share of rows whose class was told; equal to micro-averaged F1 when each row has one class.</param>
/// <param name="MacroF1">Mean F1 over the classes that are in the data or were told.</param>
/// <param name="WeightedF1">The same, weighted by support.</param>
/// <param name="Classes">Each class, in ordinal order.</param>
public sealed record Classification(double Accuracy, double MacroF1, double WeightedF1, IReadOnlyList<ClassScore> Classes)
{
    /// <summary>Counts over rows.</summary>
    /// <param name="predicted">What was told, compared exactly.</param>
    /// <param name="expected">What is right.</param>
    /// <exception cref="ArgumentException">The lists differ in length or are empty.</exception>
    public static Classification Score(IReadOnlyList<string> predicted, IReadOnlyList<string> expected)
    {
        if (predicted.Count != expected.Count || expected.Count == 0)
        {
            throw new ArgumentException($"there are {predicted.Count} predictions for {expected.Count} rows; expected as many, and at least one", nameof(predicted));
        }

        List<ClassScore> classes = [];
        foreach (string label in predicted.Concat(expected).Distinct().Order(StringComparer.Ordinal))
        {
            int both = 0;
            int told = 0;
            int support = 0;
            for (int i = 0; i < expected.Count; i++)
            {
                told += predicted[i] == label ? 1 : 0;
                support += expected[i] == label ? 1 : 0;
                both += predicted[i] == label && expected[i] == label ? 1 : 0;
            }

            classes.Add(new ClassScore(label, FScore.Of(both, told, support), support));
        }

        double accuracy = Enumerable.Range(0, expected.Count).Count(i => predicted[i] == expected[i]) / (double)expected.Count;
        return new Classification(accuracy, classes.Average(c => c.Score.F1), classes.Sum(c => c.Score.F1 * c.Support) / expected.Count, classes);
    }
}
