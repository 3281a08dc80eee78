using LoraSharp.Inference;
using LoraSharp.Layers;
using LoraSharp.Tests.Models;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Inference;

public class TextGeneratorTests
{
    public static TheoryData<string> Checkpoints => [.. Golden.Names()];

    /// <summary>22 tokens: past the sliding windows of 8.</summary>
    [Theory]
    [MemberData(nameof(Checkpoints))]
    public void GreedyIdsAreTransformers(string name)
    {
        using var golden = new Golden(name);
        int[] expected = Ids(golden.Read("greedy"));
        GeneratedText text = Run(new TextGenerator(golden.Model), expected[..6], new() { MaxTokens = 16, IgnoreEos = true });
        int comparable = name == "phi3_longrope" ? 11 : 16;
        Assert.Equal(expected[6..(6 + comparable)], text.TokenIds.Take(comparable));
        Assert.Equal(16, text.TokenIds.Count);
        Assert.Equal(FinishReason.Length, text.FinishReason);
        Assert.Equal(6, text.PromptTokens);
    }

    /// <summary>
    /// At its 17th token this model switches to the long factors and the cache must be made anew. transformers 5.17 drops
    /// the cache there and goes on with the last token alone (its ids from there on are those of one-token prompts), so
    /// what is right is a fresh pass over the whole sequence for every token.
    /// </summary>
    [Fact]
    public void TheSwitchOfLongRopeKeepsTheWholeContext()
    {
        using var golden = new Golden("phi3_longrope");
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        int[] prompt = Ids(golden.Read("greedy"))[..6];
        List<int> sequence = [.. prompt];
        for (int i = 0; i < 16; i++)
        {
            Tensor ids = tensor(sequence.Select(t => (long)t).ToArray()).unsqueeze(0);
            using var attention = new PaddedAttention();
            Tensor logits = golden.Model.Forward(ids, Golden.Arange(ids), attention);
            sequence.Add((int)logits.select(1, sequence.Count - 1).argmax().item<long>());
        }

        Assert.Equal(sequence[6..], Run(new TextGenerator(golden.Model), prompt, new() { MaxTokens = 16, IgnoreEos = true }).TokenIds);
    }

    [Theory]
    [MemberData(nameof(Checkpoints))]
    public void BatchesGiveWhatEachRowGivesAlone(string name)
    {
        using var golden = new Golden(name);
        int[] all = Ids(golden.Read("input_ids"));
        int[][] prompts = [all[..3], all[24..35], all[48..54]];
        var options = new GenerationOptions { MaxTokens = 12, IgnoreEos = true };
        var single = new TextGenerator(golden.Model);
        IReadOnlyList<GeneratedText> batch = new BatchGenerator(golden.Model).Generate(prompts, options);
        for (int i = 0; i < prompts.Length; i++)
        {
            Assert.Equal(Run(single, prompts[i], options).TokenIds, batch[i].TokenIds);
        }
    }

    [Fact]
    public void StopsAtAnyEndIdUnlessToldNotTo()
    {
        using var golden = new Golden("llama");
        int[] expected = Ids(golden.Read("greedy"));
        var generator = new TextGenerator(golden.Model);
        int third = expected[8];
        int until = Array.IndexOf(expected, third, 6) - 5;
        GeneratedText text = Run(generator, expected[..6], new() { MaxTokens = 16, EosTokenIds = [9999, third] });
        Assert.Equal(FinishReason.Stop, text.FinishReason);
        Assert.Equal(expected[6..(6 + until)], text.TokenIds);
        Assert.Equal(16, Run(generator, expected[..6], new() { MaxTokens = 16, EosTokenIds = [third], IgnoreEos = true }).TokenIds.Count);
    }

    [Fact]
    public void TheSameSeedGivesTheSameTokens()
    {
        using var golden = new Golden("llama");
        var generator = new TextGenerator(golden.Model);
        GenerationOptions With(long seed) => new() { MaxTokens = 24, Sampling = new() { Temperature = 1.5, Seed = seed } };
        IReadOnlyList<int> first = Run(generator, [5, 6, 7], With(1)).TokenIds;
        Assert.Equal(first, Run(generator, [5, 6, 7], With(1)).TokenIds);
        Assert.NotEqual(first, Run(generator, [5, 6, 7], With(2)).TokenIds);
    }

    [Fact]
    public void APromptOutsideTheVocabularyIsRefused()
    {
        using var golden = new Golden("gpt2");
        var generator = new TextGenerator(golden.Model);
        Assert.Contains("160", Assert.Throws<Formats.LoraSharpException>(() => Run(generator, [160], new())).Message, StringComparison.Ordinal);
        Assert.Throws<Formats.LoraSharpException>(() => Run(generator, [], new()));
        Assert.Contains("512 positions", Assert.Throws<Formats.LoraSharpException>(() => Run(generator, [.. Enumerable.Repeat(3, 520)], new())).Message, StringComparison.Ordinal);
    }

    private static GeneratedText Run(TextGenerator generator, int[] prompt, GenerationOptions options) =>
        generator.Generate(prompt, options, null, TestContext.Current.CancellationToken);

    private static int[] Ids(Tensor tensor) => [.. tensor.reshape(-1).data<long>().ToArray().Select(i => (int)i)];
}
