using System.Text.RegularExpressions;

namespace LoraSharp.Evaluation;

/// <summary>Precision, recall and their harmonic mean, 0 to 1.</summary>
/// <param name="Precision">Share of what was said that is right.</param>
/// <param name="Recall">Share of what is right that was said.</param>
public readonly record struct FScore(double Precision, double Recall)
{
    /// <summary>F1.</summary>
    public double F1 => Precision + Recall > 0 ? 2 * Precision * Recall / (Precision + Recall) : 0;

    internal static FScore Of(double both, double said, double right) => new(said > 0 ? both / said : 0, right > 0 ? both / right : 0);
}

/// <summary>
/// ROUGE-N and ROUGE-L (Lin 2004) as Google's <c>rouge_score</c> defines them, without its stemmer: lower case, runs of
/// a to z and 0 to 9 are the tokens; of several references the one with the best F1; a corpus is the mean over its segments.
/// </summary>
public static partial class Rouge
{
    /// <summary>ROUGE-N of one segment.</summary>
    /// <param name="hypothesis">The text.</param>
    /// <param name="references">Texts that count as right.</param>
    /// <param name="n">Length of the n-grams.</param>
    public static FScore N(string hypothesis, IReadOnlyList<string> references, int n) => Best(hypothesis, references, (said, right) =>
    {
        Dictionary<NGram, int> first = NGram.Count(said, n);
        Dictionary<NGram, int> second = NGram.Count(right, n);
        return FScore.Of(first.Sum(g => Math.Min(g.Value, second.GetValueOrDefault(g.Key))), first.Values.Sum(), second.Values.Sum());
    });

    /// <summary>ROUGE-L of one segment: the longest common subsequence.</summary>
    /// <param name="hypothesis">The text.</param>
    /// <param name="references">Texts that count as right.</param>
    public static FScore L(string hypothesis, IReadOnlyList<string> references) =>
        Best(hypothesis, references, (said, right) => FScore.Of(LongestCommonSubsequence(said, right), said.Length, right.Length));

    /// <summary>Mean F1 over a corpus, 0 to 100, of ROUGE-1, ROUGE-2 and ROUGE-L.</summary>
    /// <param name="hypotheses">One text a segment.</param>
    /// <param name="references">For each segment the texts that count as right.</param>
    /// <exception cref="ArgumentException">The lists differ in length, or a segment has no reference.</exception>
    public static (double Rouge1, double Rouge2, double RougeL) Corpus(IReadOnlyList<string> hypotheses, IReadOnlyList<IReadOnlyList<string>> references)
    {
        References.Check(hypotheses, references);
        double Mean(Func<int, FScore> score) => hypotheses.Count == 0 ? 0 : 100 * Enumerable.Range(0, hypotheses.Count).Average(i => score(i).F1);
        return (Mean(i => N(hypotheses[i], references[i], 1)), Mean(i => N(hypotheses[i], references[i], 2)), Mean(i => L(hypotheses[i], references[i])));
    }

    private static FScore Best(string hypothesis, IReadOnlyList<string> references, Func<string[], string[], FScore> score)
    {
        string[] said = Tokenize(hypothesis);
        return references.Select(r => score(said, Tokenize(r))).MaxBy(s => s.F1);
    }

    private static string[] Tokenize(string text) => [.. Words().Matches(text.ToLowerInvariant()).Select(m => m.Value)];

    private static int LongestCommonSubsequence(string[] first, string[] second)
    {
        var row = new int[second.Length + 1];
        foreach (string token in first)
        {
            int diagonal = 0;
            for (int j = 1; j <= second.Length; j++)
            {
                int above = row[j];
                row[j] = token == second[j - 1] ? diagonal + 1 : Math.Max(row[j], row[j - 1]);
                diagonal = above;
            }
        }

        return row[second.Length];
    }

    [GeneratedRegex("[a-z0-9]+")]
    private static partial Regex Words();
}
