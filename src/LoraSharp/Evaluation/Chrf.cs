namespace LoraSharp.Evaluation;

/// <summary>
/// chrF (Popović 2015) and, with word n-grams, chrF++ (Popović 2017), as sacreBLEU defines them: characters without white
/// space, orders that occur in neither side left out of the mean, the best reference of each segment.
/// </summary>
public static class Chrf
{
    private const string Punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

    /// <summary>chrF of a corpus, 0 to 100.</summary>
    /// <param name="hypotheses">One text a segment.</param>
    /// <param name="references">For each segment the texts that count as right.</param>
    /// <param name="characterOrder">Longest character n-gram.</param>
    /// <param name="wordOrder">Longest word n-gram: 0 for chrF, 2 for chrF++.</param>
    /// <param name="beta">How much more recall counts than precision.</param>
    /// <exception cref="ArgumentException">The lists differ in length, or a segment has no reference.</exception>
    public static double Corpus(IReadOnlyList<string> hypotheses, IReadOnlyList<IReadOnlyList<string>> references, int characterOrder = 6, int wordOrder = 0, double beta = 2)
    {
        References.Check(hypotheses, references);
        var sum = new long[3 * (characterOrder + wordOrder)];
        for (int i = 0; i < hypotheses.Count; i++)
        {
            long[] best = [];
            double bestScore = -1;
            Dictionary<NGram, int>[] hypothesis = Grams(hypotheses[i], characterOrder, wordOrder);
            foreach (string reference in references[i])
            {
                long[] statistics = Statistics(hypothesis, Grams(reference, characterOrder, wordOrder));
                double score = Score(statistics, beta);
                if (score > bestScore)
                {
                    (best, bestScore) = (statistics, score);
                }
            }

            for (int k = 0; k < sum.Length; k++)
            {
                sum[k] += best[k];
            }
        }

        return Score(sum, beta);
    }

    /// <summary>chrF++ of a corpus, 0 to 100.</summary>
    /// <param name="hypotheses">One text a segment.</param>
    /// <param name="references">For each segment the texts that count as right.</param>
    public static double PlusPlus(IReadOnlyList<string> hypotheses, IReadOnlyList<IReadOnlyList<string>> references) => Corpus(hypotheses, references, wordOrder: 2);

    private static Dictionary<NGram, int>[] Grams(string text, int characterOrder, int wordOrder)
    {
        string[] words = text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        string[] characters = [.. string.Concat(words).EnumerateRunes().Select(r => r.ToString())];
        string[] parted = wordOrder == 0 ? [] : [.. words.SelectMany(Parted)];
        return [.. Enumerable.Range(1, characterOrder).Select(n => NGram.Count(characters, n)), .. Enumerable.Range(1, wordOrder).Select(n => NGram.Count(parted, n))];
    }

    // One punctuation mark at the end of a word, or else at its beginning, is a word of its own.
    private static string[] Parted(string word) =>
        word.Length == 1 ? [word]
        : Punctuation.Contains(word[^1]) ? [word[..^1], word[^1..]]
        : Punctuation.Contains(word[0]) ? [word[..1], word[1..]]
        : [word];

    // For each order: n-grams of the hypothesis (none where the reference has none), of the reference, and in both.
    private static long[] Statistics(Dictionary<NGram, int>[] hypothesis, Dictionary<NGram, int>[] reference)
    {
        var statistics = new long[3 * hypothesis.Length];
        for (int n = 0; n < hypothesis.Length; n++)
        {
            statistics[3 * n] = reference[n].Count == 0 ? 0 : hypothesis[n].Values.Sum();
            statistics[(3 * n) + 1] = reference[n].Values.Sum();
            statistics[(3 * n) + 2] = hypothesis[n].Sum(g => Math.Min(g.Value, reference[n].GetValueOrDefault(g.Key)));
        }

        return statistics;
    }

    private static double Score(long[] statistics, double beta)
    {
        double precision = 0;
        double recall = 0;
        int orders = 0;
        for (int n = 0; n < statistics.Length; n += 3)
        {
            if (statistics[n] > 0 && statistics[n + 1] > 0)
            {
                precision += (double)statistics[n + 2] / statistics[n];
                recall += (double)statistics[n + 2] / statistics[n + 1];
                orders++;
            }
        }

        if (orders == 0 || precision + recall == 0)
        {
            return 0;
        }

        precision /= orders;
        recall /= orders;
        double factor = beta * beta;
        return 100 * (1 + factor) * precision * recall / ((factor * precision) + recall);
    }
}
