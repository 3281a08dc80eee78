using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Tests.Cuda;

/// <summary>An engine by the decoder's kernels against the same engine by libtorch's operators, on a GPU: requests side by side, prompts of all lengths.</summary>
public sealed class FusedServingTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-decode-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [InlineData("llama", "none", false)]
    [InlineData("llama", "nf4", true)]
    [InlineData("llama", "fp4", false)]
    [InlineData("qwen3", "none", false)]
    [InlineData("qwen3", "nf4", false)]
    public async Task It_gives_the_plain_engines_tokens(string family, string quantize, bool doubly)
    {
        TestDevice.GpuOrSkip();
        string folder = Path.Combine(_folder.FullName, "base");
        RandomBase.Write(folder, family);
        var notes = new List<string>();
        TokenScore[][] fused = await RunAsync(folder, quantize, doubly, fused: true, notes.Add);
        TokenScore[][] plain = await RunAsync(folder, quantize, doubly, fused: false, null);

        Assert.Empty(notes);
        Assert.Equal(plain.Length, fused.Length);
        var differences = new List<double>();
        int alike = 0;
        foreach ((TokenScore[] expected, TokenScore[] got) in plain.Zip(fused))
        {
            Assert.Equal(expected.Length, got.Length);
            (TokenScore One, TokenScore Other)[] pairs = [.. expected.Zip(got)];
            // After a near tie the texts part; the two tokens of the tie are still as likely as each other.
            int same = pairs.TakeWhile(p => p.One.Token == p.Other.Token).Count();
            alike += same;
            differences.AddRange(pairs.Take(same + 1).Select(p => Math.Abs(p.One.LogProbability!.Value - p.Other.LogProbability!.Value)));
        }

        // Rounding to bfloat16.
        Assert.InRange(differences.Max(), 0, 0.15);
        Assert.InRange(differences.Average(), 0, 0.03);
        Assert.True(alike > plain.Sum(p => p.Length) / 2, $"{alike} tokens alike before texts part");
    }

    private static async Task<TokenScore[][]> RunAsync(string folder, string quantize, bool doubly, bool fused, Action<string>? notes)
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = folder, Device = "cuda", DType = "bfloat16", Quantize = quantize, DoubleQuantization = doubly });
        using InferenceEngine engine = loaded.CreateEngine(new EngineLimits { MaxBatch = 16, StepTokens = 64, CacheTokens = 2048, MaxLength = 100, FusedDecode = fused }, notes);
        var random = new Random(9);
        return await Task.WhenAll(Enumerable.Range(0, 12).Select(i =>
        {
            int[] prompt = [.. Enumerable.Range(0, 1 + (i * 5)).Select(_ => random.Next(RandomBase.Vocabulary))];
            return OneAsync(engine, prompt);
        }).ToArray());
    }

    private static async Task<TokenScore[]> OneAsync(InferenceEngine engine, int[] prompt)
    {
        var scores = new List<TokenScore>();
        await foreach (TokenUpdate update in engine.GenerateAsync(new InferenceRequest { Prompt = prompt, LogProbabilities = 1, Options = new GenerationOptions { MaxTokens = 16, IgnoreEos = true } }))
        {
            scores.Add(update.Score!);
        }

        return [.. scores];
    }
}
