using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Benchmarks;

/// <summary>What holding a text to a form costs: compiling, the first text, and a step once the masks are warm.</summary>
internal static class ConstraintBenchmark
{
    private const int Texts = 40;
    private const int Longest = 200;

    private const string Person = """{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":150},"email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"type":"string","maxLength":20},"maxItems":5},"address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"}},"required":["street","city"],"additionalProperties":false}},"required":["name","age","email","tags","address"],"additionalProperties":false}""";
    private const string Tree = """{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"value":{"type":"string"},"children":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["value","children"],"additionalProperties":false}}}""";

    public static int Run(string folder)
    {
        Tokenizer tokenizer = TokenizerLoader.FromFolder(folder);
        int end = tokenizer.EosTokenId ?? tokenizer.VocabularySize;
        var compiler = new ConstraintCompiler(tokenizer, [end]);
        long start = Stopwatch.GetTimestamp();
        compiler.Regex("a");
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{tokenizer.VocabularySize} tokens; their tree: {Stopwatch.GetElapsedTime(start).TotalMilliseconds:F0} ms, once a model"));
        Measure("person", () => compiler.Json(JsonNode.Parse(Person)!));
        Measure("tree (recursive)", () => compiler.Json(JsonNode.Parse(Tree)!));
        Measure("any JSON object", compiler.JsonObject);
        Measure("date and words", () => compiler.Regex("[0-9]{4}-[0-9]{2}-[0-9]{2}: [A-Za-z ,]{1,200}\\."));

        void Measure(string name, Func<TokenConstraint> compile)
        {
            long from = Stopwatch.GetTimestamp();
            TokenConstraint constraint = compile();
            double compiled = Stopwatch.GetElapsedTime(from).TotalMilliseconds;
            double[] cold = Text(constraint, tokenizer.VocabularySize + 1, seed: 0);
            for (int seed = 1; seed < Texts; seed++)
            {
                Text(constraint, tokenizer.VocabularySize + 1, seed);
            }

            double[] warm = [.. Enumerable.Range(1, Texts - 1).SelectMany(seed => Text(constraint, tokenizer.VocabularySize + 1, seed)).Order()];
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name}: compiled in {compiled:F1} ms; first text {cold.Average():F3} ms a token, at most {cold.Max():F2}; warm {warm.Average():F3} ms a token, p99 {warm[warm.Length * 99 / 100]:F3}, at most {warm[^1]:F2} ({warm.Length} tokens)"));
        }

        return 0;
    }

    // Milliseconds of each step: mask, its use on the logits, taking the token.
    private static double[] Text(TokenConstraint constraint, int size, int seed)
    {
        var random = new Random(seed);
        var state = new ConstraintState(constraint);
        float[] logits = new float[size];
        var times = new List<double>();
        while (times.Count < Longest && !state.HasEnded)
        {
            Array.Clear(logits);
            long from = Stopwatch.GetTimestamp();
            state.Apply(logits);
            long chosen = Stopwatch.GetTimestamp();
            int token = Choose(logits, random);
            while (state.Vetoes(token))
            {
                state.Apply(logits);
                token = Choose(logits, random);
            }

            long taken = Stopwatch.GetTimestamp();
            state.Accept(token);
            times.Add((Stopwatch.GetElapsedTime(from, chosen) + Stopwatch.GetElapsedTime(taken)).TotalMilliseconds);
        }

        return [.. times];
    }

    // Any token that is let through, the first half of the time, so that texts end.
    private static int Choose(float[] logits, Random random)
    {
        int start = random.Next(2) == 0 ? 0 : random.Next(logits.Length);
        for (int i = 0; ; i++)
        {
            int token = (start + i) % logits.Length;
            if (!float.IsNegativeInfinity(logits[token]))
            {
                return token;
            }
        }
    }
}
