using System.Text.Json.Nodes;

namespace LoraSharp.Cli.Tests;

/// <summary>What commands say about the adapters that they load.</summary>
public sealed class AdapterVettingTests : IDisposable
{
    private static readonly string Llama = Fixtures.Path("models/llama");
    private static readonly string Adapter = Fixtures.Path("adapters/plain_qv");

    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public async Task Probe_prints_what_each_adapter_does()
    {
        CommandRun run = await Logits("--adapter", Adapter, "--probe", "--strict");
        Assert.Equal(0, run.ExitCode);
        Assert.Matches($@"^probe: {System.Text.RegularExpressions.Regex.Escape(Adapter)} changes logits by up to [1-9.]", run.Error);
    }

    [Fact]
    public async Task An_adapter_that_changes_nothing_is_a_warning_and_strictly_an_error()
    {
        string silent = await Untrained();
        CommandRun mild = await Logits("--adapter", silent, "--probe");
        Assert.Equal(0, mild.ExitCode);
        Assert.Contains("warning: " + silent, mild.Error, StringComparison.Ordinal);
        CommandRun strict = await Logits("--adapter", silent, "--strict");
        Assert.Equal(1, strict.ExitCode);
        Assert.Contains("changes no logit", strict.Error, StringComparison.Ordinal);
        CommandRun inspect = await CommandRun.OfAsync("inspect", silent, "--strict");
        Assert.Equal(1, inspect.ExitCode);
        CommandRun serve = await CommandRun.OfAsync("serve", "--model", Llama, "--adapter", "a=" + silent, "--strict", "--port", "0");
        Assert.Equal(1, serve.ExitCode);
        Assert.Contains("B is zero", serve.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Inspect_probes_over_the_base()
    {
        CommandRun run = await CommandRun.OfAsync("inspect", Adapter, "--probe", "--model", Llama, "--json");
        Assert.Equal(0, run.ExitCode);
        Assert.True((double)JsonNode.Parse(run.Output)!["probe"]!["max_logit_difference"]! > 0.01);
        CommandRun lacking = await CommandRun.OfAsync("inspect", Adapter, "--probe");
        Assert.Equal(1, lacking.ExitCode);
        Assert.Contains("--model", lacking.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task An_adapter_trained_on_another_base_is_refused_everywhere_and_can_be_forced()
    {
        string other = Path.Combine(_folder, "other");
        CommandRun moved = await CommandRun.OfAsync("merge", "--model", Llama, "--adapter", Adapter, "--output", other, "--probe-tokens", "0");
        Assert.Equal(0, moved.ExitCode);
        string trained = await Train(Llama, "3");
        Assert.Equal(0, (await Logits("--adapter", trained)).ExitCode);
        foreach (string[] command in (string[][])[
            ["generate", "--model", other, "--adapter", trained, "--prompt", "x"],
            ["merge", "--model", other, "--adapter", trained, "--output", Path.Combine(_folder, "m")],
            ["serve", "--model", other, "--adapter", "a=" + trained, "--port", "0"],
            ["inspect", trained, "--model", other, "--probe"]])
        {
            CommandRun run = await CommandRun.OfAsync(command);
            Assert.Equal(1, run.ExitCode);
            Assert.Contains("other weights", run.Error, StringComparison.Ordinal);
        }

        CommandRun forced = await CommandRun.OfAsync("merge", "--model", other, "--adapter", trained, "--output", Path.Combine(_folder, "m"), "--any-base");
        Assert.Equal(0, forced.ExitCode);
        Assert.Contains("note: " + trained, forced.Output, StringComparison.Ordinal);
    }

    private async Task<CommandRun> Logits(params string[] more) => await CommandRun.OfAsync(
        ["logits", "--model", Llama, "--input", Path.Combine(Adapter, "golden.safetensors"), "--output", Path.Combine(_folder, "logits.safetensors"), .. more]);

    // The rate of the first step of a warm-up is zero, so what it saves is untrained.
    private Task<string> Untrained() => Train(Llama, "1");

    private async Task<string> Train(string model, string steps)
    {
        string data = Path.Combine(_folder, "rows.jsonl");
        await File.WriteAllTextAsync(data, string.Concat(Enumerable.Repeat("{\"input_ids\": [1, 5, 9, 4], \"labels\": [1, 5, 9, 4]}\n", 8)), TestContext.Current.CancellationToken);
        string output = Path.Combine(_folder, "run" + steps);
        CommandRun run = await CommandRun.OfAsync("train", "--model", model, "--data", data, "--output", output, "--max-steps", steps, "--warmup-steps", "1", "--rank", "2", "--batch-size", "2", "--learning-rate", "0.01");
        Assert.True(run.ExitCode == 0, run.Error);
        return output;
    }
}
