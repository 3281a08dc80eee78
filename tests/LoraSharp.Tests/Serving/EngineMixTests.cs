using CsCheck;
using LoraSharp.Serving;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Serving;

/// <summary>Whatever is served side by side comes out as the plain generator gives it. Counts live tensors, so nothing may run beside.</summary>
[CollectionDefinition(nameof(EngineMixTests), DisableParallelization = true)]
[Collection(nameof(EngineMixTests))]
public sealed class EngineMixTests
{
    private static readonly string[] LlamaAdapters =
        ["all_linear", "dora", "embed_lora", "modules_to_save", "trainable_tokens", "rslora", "patterns", "pissa", "plain_qv"];

    public static TheoryData<string> Models => [.. Directory.EnumerateDirectories(Fixtures.Path("models")).Select(d => Path.GetFileName(d)!).Order(StringComparer.Ordinal)];

    // Few blocks (sequences must give way), small pieces (prompts are cut), short blocks (beginnings are shared).
    private static EngineLimits Tight => new() { MaxBatch = 5, StepTokens = 9, BlockSize = 4, CacheTokens = 80, MaxLength = 60 };

    [Theory]
    [MemberData(nameof(Models))]
    public async Task Every_family_gives_the_plain_generators_texts(string name)
    {
        await using var bench = new EngineBench(Fixtures.Path("models/" + name), []);
        Job[] jobs = Jobs(new Random(17), 9, bench.Vocabulary, []);
        await bench.CheckAsync(jobs, Tight);
    }

    [Fact]
    public async Task Sixty_four_random_mixes_of_adapters_lengths_and_arrivals_give_the_plain_generators_texts()
    {
        await using var bench = new EngineBench(Fixtures.Path("models/llama"), LlamaAdapters);
        await Gen.Select(Gen.Int[0, 1 << 20], Gen.Int[1, 7], Gen.Int[1, 24], Gen.Int[1, 16], Gen.Int[60, 90], Gen.Bool).SampleAsync(
            async (seed, batch, step, block, cache, share) =>
            {
                var limits = new EngineLimits { MaxBatch = batch, StepTokens = Math.Max(step, batch), BlockSize = block, CacheTokens = cache, PrefixCache = share, MaxLoadedAdapters = 1 + (seed % 6) };
                await bench.CheckAsync(Jobs(new Random(seed), 8, bench.Vocabulary, LlamaAdapters), limits);
            },
            iter: 64,
            threads: 1);
    }

    [Theory]
    [InlineData("gemma2", "gemma2_all")]
    [InlineData("gpt2", "gpt2_conv1d")]
    [InlineData("phi3", "phi3_fused")]
    [InlineData("qwen2", "lora_bias", "bias_lora_only", "qwen2_all")]
    [InlineData("qwen3", "qwen3_all")]
    public async Task Adapters_of_other_families_too(string model, params string[] adapters)
    {
        await using var bench = new EngineBench(Fixtures.Path("models/" + model), adapters);
        await bench.CheckAsync(Jobs(new Random(3), 10, bench.Vocabulary, adapters), Tight);
    }

    [Theory]
    [InlineData("nf4")]
    [InlineData("q8")]
    public async Task Over_a_quantised_base_too(string quantize)
    {
        await using var bench = new EngineBench(Fixtures.Path("models/llama"), LlamaAdapters, new() { Model = Fixtures.Path("models/llama"), Device = "cpu", Quantize = quantize });
        await bench.CheckAsync(Jobs(new Random(5), 12, bench.Vocabulary, LlamaAdapters), Tight);
    }

    [Fact]
    public async Task Blocks_and_tensors_are_back_when_all_have_ended_or_left()
    {
        await using var bench = new EngineBench(Fixtures.Path("models/llama"), LlamaAdapters);
        Job[] jobs = Jobs(new Random(8), 12, bench.Vocabulary, LlamaAdapters);
        await bench.CheckAsync(jobs, Tight);
        long before = Live();
        for (int i = 0; i < 3; i++)
        {
            await bench.CheckAsync(jobs, Tight, leave: true);
            Assert.Equal(before, Live());
        }
    }

    private static long Live()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return Tensor.TotalCount;
    }

    private static Job[] Jobs(Random random, int count, int vocabulary, string[] adapters)
    {
        // Half of the prompts begin alike.
        int[] common = [.. Enumerable.Range(0, 13).Select(_ => random.Next(3, vocabulary))];
        return [.. Enumerable.Range(0, count).Select(i =>
        {
            int[] own = [.. Enumerable.Range(0, random.Next(1, 12)).Select(_ => random.Next(3, vocabulary))];
            int adapter = random.Next(-1, adapters.Length);
            return new Job(adapter < 0 ? null : adapters[adapter], random.Next(2) == 0 ? own : [.. common, .. own], random.Next(1, 20), random.Next(4));
        })];
    }
}
