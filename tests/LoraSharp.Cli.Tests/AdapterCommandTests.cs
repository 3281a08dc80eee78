using System.Text.Json.Nodes;

namespace LoraSharp.Cli.Tests;

public sealed class AdapterCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public async Task Merge_measures_that_the_answers_stay_and_unmerge_gives_the_base_back()
    {
        string merged = Path.Combine(_folder, "merged");
        CommandRun run = await CommandRun.OfAsync("merge", "--model", Fixtures.Path("models/llama"), "--adapter", Fixtures.Path("adapters/all_linear"), "--output", merged, "--json");
        Assert.Equal(0, run.ExitCode);
        JsonNode report = JsonNode.Parse(run.Output)!;
        Assert.Equal(14, (int)report["changed"]!);
        Assert.InRange((double)report["probe"]!["max_logit_difference"]!, 0, 2e-5);
        Assert.InRange((double)report["probe"]!["max_top_probability_difference"]!, 0, 1e-6);
        Assert.True((double)report["probe"]!["adapter_effect"]! > 0.1);
        CommandRun back = await CommandRun.OfAsync("merge", "--model", merged, "--adapter", Fixtures.Path("adapters/all_linear"), "--unmerge", "--output", Path.Combine(_folder, "back"));
        Assert.Equal(0, back.ExitCode);
        Assert.Contains("Unmerged", back.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Combine_writes_an_adapter_that_inspect_reads()
    {
        string output = Path.Combine(_folder, "both");
        CommandRun run = await CommandRun.OfAsync("combine", "--adapters", Fixtures.Path("combine/a") + "=0.7", Fixtures.Path("combine/b") + "=-0.5", "--method", "cat", "--output", output);
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        CommandRun inspect = await CommandRun.OfAsync("inspect", output, "--spectrum", "--against", Fixtures.Path("combine/a"), "--json");
        JsonNode report = JsonNode.Parse(inspect.Output)!;
        Assert.Equal(8, (int)report["rank"]!);
        Assert.Equal(8, report["modules"]![0]!["spectrum"]!["singular_values"]!.AsArray().Count);
        // The directions of a lie wholly in the combination.
        Assert.Equal(1, (double)report["modules"]![0]!["similarity"]!["input"]!, 3);
    }

    [Fact]
    public async Task Extract_finds_the_adapter_in_a_merged_model()
    {
        string merged = Path.Combine(_folder, "merged");
        await CommandRun.OfAsync("merge", "--model", Fixtures.Path("models/llama"), "--adapter", Fixtures.Path("adapters/plain_qv"), "--output", merged, "--probe-tokens", "0");
        CommandRun run = await CommandRun.OfAsync("extract", "--base", Fixtures.Path("models/llama"), "--tuned", merged, "--rank", "8", "--output", Path.Combine(_folder, "x"), "--json");
        Assert.Equal(0, run.ExitCode);
        Assert.InRange((double)JsonNode.Parse(run.Output)!["relative_error"]!, 0, 1e-4);
    }

    [Theory]
    [InlineData("a=x", "found 'x'")]
    [InlineData("/nowhere=1", "no such folder")]
    public async Task Bad_adapters_are_one_plain_error(string adapter, string expected)
    {
        CommandRun run = await CommandRun.OfAsync("combine", "--adapters", adapter, "--output", Path.Combine(_folder, "z"));
        Assert.Equal(1, run.ExitCode);
        Assert.StartsWith("error: ", run.Error, StringComparison.Ordinal);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder));
    }

    [Fact]
    public async Task A_missing_option_is_wrong_usage() =>
        Assert.Equal(2, (await CommandRun.OfAsync("merge", "--model", "x")).ExitCode);

    [Fact]
    public async Task Models_are_combined_tensor_by_tensor()
    {
        string output = Path.Combine(_folder, "m");
        CommandRun run = await CommandRun.OfAsync("combine", "--models", Fixtures.Path("models/llama") + "=0.6", Fixtures.Path("models/llama") + "=0.4", "--method", "slerp", "--output", output);
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        CommandRun same = await CommandRun.OfAsync("extract", "--base", Fixtures.Path("models/llama"), "--tuned", output, "--output", Path.Combine(_folder, "d"), "--json");
        Assert.True(same.ExitCode == 1 || (double)JsonNode.Parse(same.Output)!["modules"]![0]!["norm"]! < 1e-4);
    }
}
