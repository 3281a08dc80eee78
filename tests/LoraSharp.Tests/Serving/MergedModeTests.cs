using LoraSharp.Serving;

namespace LoraSharp.Tests.Serving;

public sealed class MergedModeTests
{
    private static readonly string[] Names = ["all_linear", "dora", "modules_to_save", "trainable_tokens", "embed_lora", "pissa", "rslora"];

    [Theory]
    [InlineData("none")]
    [InlineData("nf4")]
    public async Task A_merged_adapter_answers_as_the_separate_one_others_go_on_and_the_base_is_what_it_was(string quantize)
    {
        string model = Fixtures.Path("models/llama");
        await using var bench = new EngineBench(model, Names, new() { Model = model, Device = "cpu", Quantize = quantize });
        using InferenceEngine engine = bench.Served.CreateEngine(new EngineLimits());
        foreach (string name in Names)
        {
            await engine.RegisterAsync(name, Fixtures.Path("adapters/" + name));
        }

        foreach (string name in Names)
        {
            Assert.True((await engine.MergeAsync(name)).IsMerged);
            Job[] jobs = [new(name, [5, 6, 7], 12, 0), new(null, [5, 6, 7], 12, 0), new(name, [9, 8], 12, 0), new("all_linear", [3, 4, 5], 12, 0)];
            IReadOnlyList<int>[] got = await Task.WhenAll(jobs.Select(j => EngineBench.RunAsync(engine, j)));
            Assert.Equal(jobs.Select(bench.Expected), got);
            Assert.Equal(name, Assert.Single(engine.Adapters, a => a.IsMerged).Name);
        }

        await engine.UnmergeAsync();
        Assert.DoesNotContain(engine.Adapters, a => a.IsMerged || a.IsPinned);
        Job last = new("rslora", [5, 6, 7], 12, 0);
        Assert.Equal(bench.Expected(last), await EngineBench.RunAsync(engine, last));
        await Assert.ThrowsAsync<UnknownAdapterException>(() => engine.MergeAsync("nobody"));
    }
}
