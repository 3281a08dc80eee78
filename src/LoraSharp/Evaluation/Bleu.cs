using System.Globalization;
using System.Text.RegularExpressions;

namespace LoraSharp.Evaluation;

/// <summary>BLEU of a corpus with what it is made of.</summary>
/// <param name="Score">0 to 100.</param>
/// <param name="Precisions">Smoothed n-gram precisions in percent, n = 1 to 4.</param>
/// <param name="BrevityPenalty">At most 1.</param>
/// <param name="HypothesisLength">Tokens of all hypotheses.</param>
/// <param name="ReferenceLength">Tokens of the references closest in length.</param>
/// <param name="Signature">How it was computed, in sacreBLEU's words.</param>
public sealed record BleuScore(double Score, IReadOnlyList<double> Precisions, double BrevityPenalty, long HypothesisLength, long ReferenceLength, string Signature)
{
    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"BLEU|{Signature} = {Score:F2} {string.Join("/", Precisions.Select(p => p.ToString("F1", CultureInfo.InvariantCulture)))} (BP = {BrevityPenalty:F3} ratio = {(ReferenceLength == 0 ? 0 : (double)HypothesisLength / ReferenceLength):F3} hyp_len = {HypothesisLength} ref_len = {ReferenceLength})");
}

/// <summary>
/// BLEU (Papineni et al. 2002) as sacreBLEU (Post 2018) defines it: mteval-v13a tokenization, case kept, several references,
/// the closest reference length, exponential smoothing of orders without a match.
/// </summary>
public static partial class Bleu
{
    private const int Orders = 4;

    /// <summary>BLEU of a corpus.</summary>
    /// <param name="hypotheses">One text a segment.</param>
    /// <param name="references">For each segment the texts that count as right, at least one; their number may differ.</param>
    /// <param name="lowercase">Compare without case.</param>
    /// <exception cref="ArgumentException">The lists differ in length, or a segment has no reference.</exception>
    public static BleuScore Corpus(IReadOnlyList<string> hypotheses, IReadOnlyList<IReadOnlyList<string>> references, bool lowercase = false)
    {
        References.Check(hypotheses, references);
        var correct = new long[Orders];
        var total = new long[Orders];
        long hypothesisLength = 0;
        long referenceLength = 0;
        for (int i = 0; i < hypotheses.Count; i++)
        {
            Segment(hypotheses[i], references[i], lowercase, correct, total, ref hypothesisLength, ref referenceLength);
        }

        int[] counts = [.. references.Select(r => r.Count).Distinct()];
        string number = counts.Length == 1 ? counts[0].ToString(CultureInfo.InvariantCulture) : "var";
        return Score(correct, total, hypothesisLength, referenceLength, effectiveOrder: false, $"nrefs:{number}|case:{(lowercase ? "lc" : "mixed")}|eff:no|tok:13a|smooth:exp");
    }

    /// <summary>BLEU of one segment; orders longer than the text do not count (effective order).</summary>
    public static double Sentence(string hypothesis, IReadOnlyList<string> references, bool lowercase = false)
    {
        References.Check([hypothesis], [references]);
        var correct = new long[Orders];
        var total = new long[Orders];
        long hypothesisLength = 0;
        long referenceLength = 0;
        Segment(hypothesis, references, lowercase, correct, total, ref hypothesisLength, ref referenceLength);
        return Score(correct, total, hypothesisLength, referenceLength, effectiveOrder: true, "").Score;
    }

    /// <summary>Tokens of a text as mteval-v13a.pl cuts it (its language-independent part).</summary>
    public static string[] Tokenize(string text)
    {
        string line = text.Replace("<skipped>", "", StringComparison.Ordinal).Replace("-\n", "", StringComparison.Ordinal).Replace('\n', ' ');
        if (line.Contains('&', StringComparison.Ordinal))
        {
            line = line.Replace("&quot;", "\"", StringComparison.Ordinal).Replace("&amp;", "&", StringComparison.Ordinal)
                .Replace("&lt;", "<", StringComparison.Ordinal).Replace("&gt;", ">", StringComparison.Ordinal);
        }

        line = Symbols().Replace($" {line} ", " $1 ");
        line = PunctuationAfterNonDigit().Replace(line, "$1 $2 ");
        line = PunctuationBeforeNonDigit().Replace(line, " $1 $2");
        line = DashAfterDigit().Replace(line, "$1 $2 ");
        return line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
    }

    private static void Segment(string hypothesis, IReadOnlyList<string> references, bool lowercase, long[] correct, long[] total, ref long hypothesisLength, ref long referenceLength)
    {
        string[] tokens = Prepare(hypothesis, lowercase);
        var most = new Dictionary<NGram, int>[Orders];
        int closest = -1;
        for (int n = 0; n < Orders; n++)
        {
            most[n] = [];
        }

        foreach (string reference in references)
        {
            string[] words = Prepare(reference, lowercase);
            int distance = Math.Abs(words.Length - tokens.Length);
            int best = Math.Abs(closest - tokens.Length);
            closest = closest < 0 || distance < best || (distance == best && words.Length < closest) ? words.Length : closest;
            for (int n = 1; n <= Orders; n++)
            {
                foreach ((NGram gram, int count) in NGram.Count(words, n))
                {
                    most[n - 1][gram] = Math.Max(count, most[n - 1].GetValueOrDefault(gram));
                }
            }
        }

        hypothesisLength += tokens.Length;
        referenceLength += closest;
        for (int n = 1; n <= Orders; n++)
        {
            total[n - 1] += Math.Max(0, tokens.Length - n + 1);
            foreach ((NGram gram, int count) in NGram.Count(tokens, n))
            {
                correct[n - 1] += Math.Min(count, most[n - 1].GetValueOrDefault(gram));
            }
        }
    }

    private static BleuScore Score(long[] correct, long[] total, long hypothesisLength, long referenceLength, bool effectiveOrder, string signature)
    {
        var precisions = new double[Orders];
        double penalty = hypothesisLength >= referenceLength ? 1 : hypothesisLength > 0 ? Math.Exp(1 - ((double)referenceLength / hypothesisLength)) : 0;
        if (correct.All(c => c == 0))
        {
            return new BleuScore(0, precisions, penalty, hypothesisLength, referenceLength, signature);
        }

        // Chen and Cherry 2014, method 3: each further order without a match counts half of one match less.
        double smooth = 1;
        int orders = Orders;
        for (int n = 0; n < Orders && total[n] > 0; n++)
        {
            orders = effectiveOrder ? n + 1 : Orders;
            smooth = correct[n] == 0 ? smooth * 2 : smooth;
            precisions[n] = correct[n] == 0 ? 100.0 / (smooth * total[n]) : 100.0 * correct[n] / total[n];
        }

        // An order that no hypothesis is long enough for makes the mean zero.
        double log = precisions.Take(orders).Sum(p => p == 0 ? double.NegativeInfinity : Math.Log(p)) / orders;
        // exp(log 100) is a little above 100 in float64.
        return new BleuScore(Math.Min(100, penalty * Math.Exp(log)), precisions, penalty, hypothesisLength, referenceLength, signature);
    }

    private static string[] Prepare(string text, bool lowercase)
    {
        string line = text.TrimEnd();
        return Tokenize(lowercase ? line.ToLowerInvariant() : line);
    }

    [GeneratedRegex(@"([\{-\~\[-\` -\&\(-\+\:-\@\/])")]
    private static partial Regex Symbols();

    [GeneratedRegex(@"([^0-9])([\.,])")]
    private static partial Regex PunctuationAfterNonDigit();

    [GeneratedRegex(@"([\.,])([^0-9])")]
    private static partial Regex PunctuationBeforeNonDigit();

    [GeneratedRegex(@"([0-9])(-)")]
    private static partial Regex DashAfterDigit();
}
