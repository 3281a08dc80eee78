using System.Text.Json.Nodes;

namespace LoraSharp.Evaluation;

/// <summary>Everything that is counted of generated text against references, each from 0 to 100.</summary>
/// <param name="Rows">Rows.</param>
/// <param name="ExactMatch">Share equal to a reference but for white space around it.</param>
/// <param name="Bleu">Corpus BLEU, with its parts and signature.</param>
/// <param name="Rouge1">Mean F1 of words.</param>
/// <param name="Rouge2">Mean F1 of word pairs.</param>
/// <param name="RougeL">Mean F1 of the longest common subsequence.</param>
/// <param name="Chrf">chrF.</param>
/// <param name="ChrfPlusPlus">chrF++.</param>
/// <param name="TokenF1">Mean F1 of normalised words as bags (SQuAD).</param>
public sealed record TextScores(int Rows, double ExactMatch, BleuScore Bleu, double Rouge1, double Rouge2, double RougeL, double Chrf, double ChrfPlusPlus, double TokenF1)
{
    /// <summary>Counts everything.</summary>
    /// <param name="hypotheses">What was generated, a text a row.</param>
    /// <param name="references">For each row the texts that count as right.</param>
    /// <exception cref="ArgumentException">The lists differ in length or are empty, or a row has no reference.</exception>
    public static TextScores Compute(IReadOnlyList<string> hypotheses, IReadOnlyList<IReadOnlyList<string>> references)
    {
        References.Check(hypotheses, references);
        if (hypotheses.Count == 0)
        {
            throw new ArgumentException("there are no rows to score", nameof(hypotheses));
        }

        (double rouge1, double rouge2, double rougeL) = Rouge.Corpus(hypotheses, references);
        double Mean(Func<int, double> score) => 100 * Enumerable.Range(0, hypotheses.Count).Average(score);
        return new TextScores(
            hypotheses.Count,
            Mean(i => Answers.IsExact(hypotheses[i], references[i]) ? 1 : 0),
            Evaluation.Bleu.Corpus(hypotheses, references),
            rouge1,
            rouge2,
            rougeL,
            Evaluation.Chrf.Corpus(hypotheses, references),
            Evaluation.Chrf.PlusPlus(hypotheses, references),
            Mean(i => Answers.TokenF1(hypotheses[i], references[i])));
    }

    /// <summary>The scores under their usual names, for JSON.</summary>
    public JsonObject ToJson() => new()
    {
        ["rows"] = Rows,
        ["exact_match"] = ExactMatch,
        ["bleu"] = Bleu.Score,
        ["bleu_signature"] = Bleu.Signature,
        ["rouge1"] = Rouge1,
        ["rouge2"] = Rouge2,
        ["rougeL"] = RougeL,
        ["chrf"] = Chrf,
        ["chrf++"] = ChrfPlusPlus,
        ["token_f1"] = TokenF1,
    };
}
