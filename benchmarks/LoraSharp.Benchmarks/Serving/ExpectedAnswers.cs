using LoraSharp.Formats.Peft;
using LoraSharp.Inference;
using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>
/// Greedy answers of the plain generator, to which a server's are compared token by token. In a batch matrix products have
/// another height and are rounded otherwise, so a token that won by less than that rounding may rightly change places:
/// an answer ends here before the first token whose lead over the next was that small.
/// </summary>
internal sealed class ExpectedAnswers
{
    // Logits of a mixed batch differ by up to 1e-4 in float32; twice that on both sides, and room to spare.
    private const float LeastLead = 1e-3f;

    private readonly Dictionary<(string Path, int Question), int[]> _answers = [];

    /// <summary>The prompts, as token ids.</summary>
    public required IReadOnlyList<int[]> Questions { get; init; }

    /// <summary>Path under which the base's own answers stand.</summary>
    public const string Base = "";

    /// <summary>What an adapter (by its path) answers to a question; maybe shorter than asked for, see above.</summary>
    public int[] this[string path, int question] => _answers[(path, question)];

    /// <summary>Lets the plain generator answer every question with the base and with each adapter.</summary>
    public static ExpectedAnswers Compute(LoadedModel loaded, IEnumerable<string> adapterPaths, IReadOnlyList<int[]> questions, int tokens)
    {
        var expected = new ExpectedAnswers { Questions = questions };
        expected.Add(loaded, Base, tokens);
        foreach (string path in adapterPaths)
        {
            using (AdapterFolder folder = AdapterFolder.Open(path))
            {
                loaded.Adapters.Load(folder, path);
            }

            loaded.Adapters.Select(path);
            expected.Add(loaded, path, tokens);
            loaded.Adapters.SelectNone();
            loaded.Adapters.Remove(path);
        }

        return expected;
    }

    private void Add(LoadedModel loaded, string path, int tokens)
    {
        var generator = new TextGenerator(loaded.Model);
        for (int q = 0; q < Questions.Count; q++)
        {
            int[] answer = [.. generator.Generate(Questions[q], new GenerationOptions { MaxTokens = tokens, IgnoreEos = true }).TokenIds];
            _answers[(path, q)] = answer[..Certain(loaded, Questions[q], answer)];
        }
    }

    // Tokens before the first that hardly won: one pass over prompt and answer gives all leads.
    private static int Certain(LoadedModel loaded, int[] prompt, int[] answer)
    {
        using var frozen = no_grad();
        using var scope = NewDisposeScope();
        long[] ids = [.. prompt.Concat(answer).SkipLast(1).Select(i => (long)i)];
        using var cache = new KeyValueCache(loaded.Model.LayerCount, null, ids.Length);
        Tensor hidden = loaded.Model.Hidden(tensor(ids, device: loaded.Model.Device).unsqueeze(0), arange(ids.Length, ScalarType.Int64, loaded.Model.Device).unsqueeze(0), cache);
        Tensor logits = loaded.Model.Logits(hidden.narrow(1, prompt.Length - 1, answer.Length)).view(answer.Length, -1).to(ScalarType.Float32);
        (Tensor best, _) = logits.topk(2, -1);
        float[] leads = best.select(1, 0).sub(best.select(1, 1)).cpu().data<float>().ToArray();
        int first = Array.FindIndex(leads, lead => lead < LeastLead);
        return first < 0 ? answer.Length : first;
    }
}
