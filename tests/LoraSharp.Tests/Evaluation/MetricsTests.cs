using LoraSharp.Evaluation;

namespace LoraSharp.Tests.Evaluation;

/// <summary>Against values that others published: sacreBLEU's README and tests, Google's rouge_score tests, the metric card of chrF on the Hugging Face hub.</summary>
public sealed class MetricsTests
{
    // sacreBLEU's README, "Using SacreBLEU from Python".
    private static readonly string[] Hypotheses = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."];

    private static readonly string[][] ReferenceTexts =
    [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ];

    [Fact]
    public void Bleu_of_sacrebleus_readme()
    {
        BleuScore score = Bleu.Corpus(Hypotheses, ReferenceTexts);
        // test_bleu.py: 48.530827.
        Assert.Equal(48.530827, score.Score, 6);
        Assert.Equal("BLEU|nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp = 48.53 82.4/50.0/45.5/37.5 (BP = 0.943 ratio = 0.944 hyp_len = 17 ref_len = 18)", score.ToString());
    }

    [Fact]
    public void Bleu_with_a_varying_number_of_references()
    {
        string[][] references = [[ReferenceTexts[0][1]], ReferenceTexts[1], ReferenceTexts[2]];
        Assert.Equal("BLEU|nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp = 29.44 82.4/42.9/27.3/12.5 (BP = 0.889 ratio = 0.895 hyp_len = 17 ref_len = 19)", Bleu.Corpus(Hypotheses, references).ToString());
    }

    [Fact]
    public void Bleu_of_sentences()
    {
        // test_sentence_bleu.py, examples of issues 98 and 141.
        Assert.Equal(8.493, Bleu.Sentence("Producția de zahăr primă va fi exprimată în ceea ce privește zahărul alb;", ["producţia de zahăr brut se exprimă în zahăr alb;"]), 3);
        Assert.Equal(0, Bleu.Sentence("this is a cat", ["okay thanks"]));
        // test_bleu.py, effective order.
        Assert.Equal(36.78794411714425, Bleu.Sentence("test", ["a test"]), 8);
        Assert.Equal(100, Bleu.Sentence("a test", ["a test"]));
        Assert.Equal(100, Bleu.Corpus(["a test of four words"], [["a test of four words"]]).Score);
    }

    [Fact]
    public void Bleu_at_its_borders()
    {
        Assert.Equal(0, Bleu.Corpus(["", "", ""], ReferenceTexts).Score);
        Assert.Equal(100, Bleu.Corpus(["this is a test"], [["this is a test"]]).Score, 8);
        // Of a text of two words there is no precision of three and four words.
        Assert.Equal(0, Bleu.Corpus(["a test"], [["a test"]]).Score);
        Assert.Equal(100, Bleu.Corpus(["This IS a test"], [["this is A test"]], lowercase: true).Score, 8);
        Assert.Throws<ArgumentException>(() => Bleu.Corpus(["a"], []));
        Assert.Throws<ArgumentException>(() => Bleu.Corpus(["a"], [[]]));
    }

    [Theory]
    [InlineData("It wasn't surprising.", "It wasn't surprising .")]
    [InlineData("a 1,000.5 b, c.", "a 1,000.5 b , c .")]
    [InlineData("costs $5 (or 10-20%)!", "costs $ 5 ( or 10 - 20 % ) !")]
    [InlineData("&quot;x&quot; &amp; y/z", "\" x \" & y / z")]
    [InlineData("well-known", "well-known")]
    [InlineData("soft-\nhyphen and\nline", "softhyphen and line")]
    public void Tokens_are_cut_as_mteval_13a_says(string text, string expected) => Assert.Equal(expected, string.Join(' ', Bleu.Tokenize(text)));

    [Theory]
    // test_chrf.py, effective order, beta 3.
    [InlineData("a", "a", 3, 100.0)]
    [InlineData("", "reference", 3, 0.0)]
    [InlineData("a b c", "abc", 3, 100.0)]
    [InlineData("aa", "ab", 3, 25.0)]
    public void Chrf_of_sacrebleus_tests(string hypothesis, string reference, double beta, double expected) =>
        Assert.Equal(expected, Chrf.Corpus([hypothesis], [[reference]], beta: beta), 4);

    [Fact]
    public void Chrf_of_a_corpus()
    {
        Assert.Equal(50, Chrf.Corpus(["a", "b"], [["a"], ["c"]], beta: 3), 4);
        // sacreBLEU's README: chrF2 = 59.73.
        Assert.Equal(59.73, Chrf.Corpus(Hypotheses, ReferenceTexts), 2);
        // huggingface.co/spaces/evaluate-metric/chrf, the examples of the metric card.
        string[] hypotheses = ["The relationship between cats and dogs is not exactly friendly.", "a good bookshop is just a genteel black hole that knows how to read."];
        string[][] references = [["The relationship between dogs and cats is not exactly friendly."], ["A good bookshop is just a genteel Black Hole that knows how to read."]];
        Assert.Equal(84.64214891738334, Chrf.Corpus(hypotheses, references), 8);
        Assert.Equal(82.87263732906315, Chrf.PlusPlus(hypotheses, references), 8);
    }

    [Theory]
    // rouge_scorer_test.py: testRouge1, testRouge2, testRougeLConsecutive, testRougeLNonConsecutive, testRougeEmpty.
    [InlineData("testing", 1, 1, 1.0 / 3)]
    [InlineData("testing one", 2, 1, 1.0 / 2)]
    [InlineData("testing one", 0, 1, 2.0 / 3)]
    [InlineData("testing two", 0, 1, 2.0 / 3)]
    [InlineData("", 1, 0, 0)]
    [InlineData("", 0, 0, 0)]
    public void Rouge_of_googles_tests(string hypothesis, int n, double precision, double recall)
    {
        string[] references = ["testing one two"];
        FScore score = n == 0 ? Rouge.L(hypothesis, references) : Rouge.N(hypothesis, references, n);
        Assert.Equal(precision, score.Precision, 7);
        Assert.Equal(recall, score.Recall, 7);
    }

    [Fact]
    public void Rouge_against_rouge_1_5_5()
    {
        // rouge_scorer_test.py: the first two rows of testdata, whose scores were taken from runs of ROUGE-1.5.5.
        string[] targets =
        [
            "ZfbCUIUuePaiLVUlCaUXxkpu XPeWing tUHfPMuZ',-Xd Y BrUgVJing M-HV.-DgdDaY.rFDJCRing Ht-LM EKBDXkME,yz'RBr q'wtion wIojNbN wL,b .a-'XdQggyFl jB-RPP'iyOIcUxer tKM L",
            "KsJdPByEtAor fE-Qg Dpdbring cw-WeFyu vC MoBL Xdn g wkvcEiGvKtion BDFhrpMtion psing sbKao Q m qiing LMmer HqqLFXe,XPY,J XsurkMer ,ed nB'wH'bWVHjWFEing tQ.saefZwJtKrTlixYpMMsJing UCAPwNHeYVjDing c T BUySKtion gMPfJpwGw p'NvxAoping eu pBwMBKV'I DNxqelhu,PHPxDEq,mtion SN",
        ];
        string[] predictions =
        [
            "rFDJCRtion Ht-LM EKtDXkME,yz'RBr q'wer wrojNbN wL,b .a-'XdQggyFl jB-RPP'iyOIcUxi",
            "n cw-WeFyu vC MoBL Xdn g wkvcEiGvKtion BDFhrpMer pstion sbKao Q m qier LMmed HqqLFXe,XPY,J XsurkMeo ,ed nB'wH'bWVHjWFEer tQ.saefZwJtKrTlixYpMMNJtion UCAPwNHeYVjD",
        ];
        (double Recall, double Precision, double F)[] one = [(0.40741, 0.68750, 0.51163), (0.40476, 0.65385, 0.50000)];
        (double Recall, double Precision, double F)[] two = [(0.30769, 0.53333, 0.39024), (0.29268, 0.48000, 0.36364)];
        for (int i = 0; i < 2; i++)
        {
            Check(one[i], Rouge.N(predictions[i], [targets[i]], 1));
            Check(two[i], Rouge.N(predictions[i], [targets[i]], 2));
            Check(one[i], Rouge.L(predictions[i], [targets[i]]));
        }

        static void Check((double Recall, double Precision, double F) expected, FScore score) =>
            Assert.Equal(expected, (Math.Round(score.Recall, 5), Math.Round(score.Precision, 5), Math.Round(score.F1, 5)));
    }

    [Fact]
    public void The_best_reference_counts() => Assert.Equal(1, Rouge.L("b c", ["a b", "b c", "x"]).F1);

    [Fact]
    public void Answers_exact_and_by_words()
    {
        Assert.True(Answers.IsExact(" yes\n", ["no", "yes"]));
        Assert.False(Answers.IsExact("Yes", ["yes"]));
        Assert.True(Answers.IsExactNormalized("The  Cat.", ["a cat"]));
        Assert.False(Answers.IsExactNormalized("cats", ["cat"]));
        // SQuAD: two of three words said are right, two of four right ones were said: 2·(2/3)·(1/2) / (2/3 + 1/2) = 4/7.
        Assert.Equal(4.0 / 7, Answers.TokenF1("big red dog", ["red dog runs fast", "x"]), 12);
        Assert.Equal(0, Answers.TokenF1("", ["x"]));
    }

    [Fact]
    public void Classification_of_scikit_learns_documentation()
    {
        // sklearn.metrics.f1_score: y_true = [0, 1, 2, 0, 1, 2], y_pred = [0, 2, 1, 0, 0, 1]: macro 0.26..., micro 0.33..., weighted 0.26..., each [0.8, 0, 0].
        Classification score = Classification.Score(["0", "2", "1", "0", "0", "1"], ["0", "1", "2", "0", "1", "2"]);
        Assert.Equal(1.0 / 3, score.Accuracy, 12);
        Assert.Equal(0.8 / 3, score.MacroF1, 12);
        Assert.Equal(0.8 / 3, score.WeightedF1, 12);
        Assert.Equal([0.8, 0, 0], score.Classes.Select(c => Math.Round(c.Score.F1, 12)));
        Assert.Throws<ArgumentException>(() => Classification.Score([], []));
    }

    [Fact]
    public void All_scores_at_once()
    {
        TextScores scores = TextScores.Compute(Hypotheses, ReferenceTexts);
        Assert.Equal(100.0 / 3, scores.ExactMatch, 9);
        Assert.Equal(48.53, scores.Bleu.Score, 2);
        Assert.Equal(59.73, (double)scores.ToJson()["chrf"]!, 2);
        Assert.Throws<ArgumentException>(() => TextScores.Compute([], []));
    }
}
