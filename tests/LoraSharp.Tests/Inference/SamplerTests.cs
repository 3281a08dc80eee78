using LoraSharp.Formats;
using LoraSharp.Inference;

namespace LoraSharp.Tests.Inference;

public class SamplerTests
{
    private static readonly float[] Logits = [1f, 3f, 2f, -1f];

    [Fact]
    public void TheDefaultTakesTheLargest() => Assert.Equal(1, new Sampler(new(), []).Next(Logits));

    [Fact]
    public void DrawsFollowTheSoftmax()
    {
        var sampler = new Sampler(new() { Temperature = 1, Seed = 3 }, []);
        int[] counts = new int[4];
        for (int i = 0; i < 40_000; i++)
        {
            counts[sampler.Next(Logits)]++;
        }

        double total = Logits.Sum(l => Math.Exp(l));
        for (int i = 0; i < 4; i++)
        {
            Assert.Equal(Math.Exp(Logits[i]) / total, counts[i] / 40_000.0, 0.01);
        }
    }

    [Theory]
    [InlineData(2, 1.0, 0.0, new[] { 1, 2 })]
    [InlineData(0, 0.6, 0.0, new[] { 1 })]
    [InlineData(0, 0.7, 0.0, new[] { 1, 2 })]
    [InlineData(0, 1.0, 0.3, new[] { 1, 2 })]
    [InlineData(1, 1.0, 0.0, new[] { 1 })]
    [InlineData(0, 0.7, 0.3, new[] { 1, 2 })] // 0.644 + 0.237: what min-p drops counts in top-p's sum
    [InlineData(3, 0.95, 0.3, new[] { 1, 2 })]
    public void FiltersLeaveOnly(int topK, double topP, double minP, int[] allowed)
    {
        var sampler = new Sampler(new() { Temperature = 1, TopK = topK, TopP = topP, MinP = minP, Seed = 5 }, []);
        HashSet<int> drawn = [.. Enumerable.Range(0, 2000).Select(_ => sampler.Next(Logits))];
        Assert.Equal(allowed, drawn.Order());
    }

    [Fact]
    public void PenaltiesCountPromptAndTextAsTheyShould()
    {
        // 3 / 2 = 1.5 < 2: the prompt's token 1 loses to 2, and then 2 / 2 = 1 to 1.
        var repetition = new Sampler(new() { RepetitionPenalty = 2 }, [1]);
        Assert.Equal(2, repetition.Next(Logits));
        Assert.Equal(1, repetition.Next(Logits));

        var presence = new Sampler(new() { PresencePenalty = 1.5 }, [1]);
        Assert.Equal(1, presence.Next(Logits));
        Assert.Equal(2, presence.Next(Logits));
        Assert.Equal(1, presence.Next(Logits));

        var frequency = new Sampler(new() { FrequencyPenalty = 0.6 }, []);
        Assert.Equal([1, 1, 2, 0, 1], Enumerable.Range(0, 5).Select(_ => frequency.Next([1.9f, 3f, 2f, -1f])));
    }

    [Fact]
    public void EveryFaultIsListed()
    {
        string message = Assert.Throws<LoraSharpException>(() => new SamplingOptions { Temperature = -1, TopP = 0, MinP = 2, TopK = -3, RepetitionPenalty = 0 }.Validate()).Message;
        Assert.All(["temperature", "top_p", "min_p", "top_k", "repetition_penalty"], name => Assert.Contains(name, message, StringComparison.Ordinal));
    }
}
