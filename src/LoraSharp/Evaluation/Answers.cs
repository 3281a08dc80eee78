using System.Text;
using System.Text.RegularExpressions;

namespace LoraSharp.Evaluation;

/// <summary>Whether short answers are right: exact match and the overlap of words, as SQuAD (Rajpurkar et al. 2016) scores them, or to the letter.</summary>
public static partial class Answers
{
    /// <summary>Whether a text equals one of the references but for white space around it.</summary>
    public static bool IsExact(string hypothesis, IReadOnlyList<string> references) => references.Any(r => r.AsSpan().Trim().SequenceEqual(hypothesis.AsSpan().Trim()));

    /// <summary>Whether a text equals one of the references in lower case, without punctuation, articles and double white space.</summary>
    public static bool IsExactNormalized(string hypothesis, IReadOnlyList<string> references)
    {
        string said = Normalize(hypothesis);
        return references.Any(r => Normalize(r) == said);
    }

    /// <summary>F1 of the words that a text and its best reference share, normalised, as bags.</summary>
    public static double TokenF1(string hypothesis, IReadOnlyList<string> references)
    {
        string[] said = Words(hypothesis);
        return references.Max(reference =>
        {
            string[] right = Words(reference);
            if (said.Length == 0 || right.Length == 0)
            {
                return said.Length == right.Length ? 1 : 0;
            }

            Dictionary<NGram, int> counts = NGram.Count(right, 1);
            return FScore.Of(NGram.Count(said, 1).Sum(g => Math.Min(g.Value, counts.GetValueOrDefault(g.Key))), said.Length, right.Length).F1;
        });
    }

    private static string[] Words(string text) => Normalize(text).Split(' ', StringSplitOptions.RemoveEmptyEntries);

    private static string Normalize(string text)
    {
        var kept = new StringBuilder(text.Length);
        foreach (char c in text.ToLowerInvariant())
        {
            if (!(char.IsAscii(c) && (char.IsPunctuation(c) || char.IsSymbol(c))))
            {
                kept.Append(c);
            }
        }

        return string.Join(' ', Articles().Replace(kept.ToString(), " ").Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
    }

    [GeneratedRegex(@"\b(a|an|the)\b")]
    private static partial Regex Articles();
}
