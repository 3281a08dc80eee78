using LoraSharp.Inference;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Tests.Inference.Constraints;

/// <summary>Texts of a model that knows nothing: any token as likely as any other, but for what closes, so that texts end.</summary>
internal static class RandomText
{
    private static readonly PieceTokenizer Tokenizer = new();

    public static ConstraintCompiler Compiler { get; } = new(Tokenizer, [Tokenizer.Eos]);

    public static PieceTokenizer Vocabulary => Tokenizer;

    /// <summary>A complete text, or null when it did not end within the tokens.</summary>
    public static string? Of(TokenConstraint constraint, int seed, int tokens = 600)
    {
        var sampler = new Sampler(new SamplingOptions { Temperature = 1, Seed = seed, Constraint = constraint }, []);
        var random = new Random(seed);
        float[] logits = new float[Tokenizer.VocabularySize];
        var ids = new List<int>();
        for (int i = 0; i < tokens; i++)
        {
            for (int t = 0; t < logits.Length; t++)
            {
                logits[t] = (float)random.NextDouble();
            }

            // The longer the text, the dearer it is to go on.
            foreach (char closing in "\"}]<\n")
            {
                logits[closing] += 1 + (i * 0.05f);
            }

            logits[Tokenizer.Eos] += 3;
            int token = sampler.Next(logits);
            if (token != Tokenizer.Eos)
            {
                ids.Add(token);
            }

            if (token == Tokenizer.Eos || sampler.HasEnded)
            {
                return Tokenizer.Decode(ids);
            }
        }

        return null;
    }
}
