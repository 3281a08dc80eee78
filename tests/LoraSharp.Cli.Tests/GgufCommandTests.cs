using System.Text.Json.Nodes;

namespace LoraSharp.Cli.Tests;

public sealed class GgufCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public async Task Import_and_export_give_the_model_back()
    {
        string folder = Path.Combine(_folder, "hf");
        JsonNode imported = await Report("import", Fixtures.Path("gguf/tiny-bf16.gguf"), "--output", folder, "--json");
        Assert.Equal("llama", (string?)imported["architecture"]);
        Assert.Equal(0, (double)imported["tensors"]!["largest_difference"]!);
        Assert.Equal(0, (double)imported["logits"]!["max_logit_difference"]!);
        Assert.Empty(imported["tokenizer"]!["differing"]!.AsArray());
        Assert.True(File.Exists(Path.Combine(folder, "tokenizer_config.json")));

        string file = Path.Combine(_folder, "back.gguf");
        JsonNode exported = await Report("export", "--model", folder, "--output", file, "--type", "bf16", "--json");
        Assert.Equal(0, (double)exported["tensors"]!["largest_difference"]!);
        Assert.Empty(exported["tokenizer"]!["differing"]!.AsArray());
        Assert.Equal(0, (double)exported["logits"]!["max_logit_difference"]!);
        Assert.Empty(exported["warnings"]!.AsArray());
    }

    [Fact]
    public async Task A_quantised_export_states_its_error()
    {
        JsonNode report = await Report("export", "--model", Fixtures.Path("gguf/tiny-bf16.gguf"), "--output", Path.Combine(_folder, "q.gguf"), "--type", "q8_0", "--json");
        Assert.InRange((double)report["tensors"]!["largest_relative_error"]!, 1e-3, 1e-2);
        Assert.InRange((double)report["logits"]!["max_logit_difference"]!, 1e-3, 0.2);
    }

    [Fact]
    public async Task A_merged_export_answers_as_base_and_adapter_do()
    {
        JsonNode report = await Report("export", "--model", Fixtures.Path("gguf/tiny-bf16.gguf"), "--adapter", Fixtures.Path("gguf/adapter-f32.gguf"), "--output", Path.Combine(_folder, "m.gguf"), "--type", "f32", "--json");
        Assert.InRange((double)report["logits"]!["max_logit_difference"]!, 0, 5e-5);
        Assert.True((double)report["logits"]!["adapter_effect"]! > 0.1);
        Assert.Equal(["m.gguf"], Directory.EnumerateFileSystemEntries(_folder).Select(Path.GetFileName));
    }

    [Fact]
    public async Task An_export_rounds_its_base_first_where_asked()
    {
        string[] common = ["export", "--model", Fixtures.Path("gguf/tiny-bf16.gguf"), "--type", "f32", "--device", "cpu", "--dtype", "float32", "--json", "--output"];
        string plain = Path.Combine(_folder, "plain.gguf"), rounded = Path.Combine(_folder, "rounded.gguf");
        await Report([.. common, plain]);
        JsonNode report = await Report([.. common, rounded, "--quantize", "nf4"]);

        // The file holds what the rounded base holds, and that is not the base.
        Assert.Equal(0, (double)report["tensors"]!["largest_difference"]!);
        Assert.NotEqual(File.ReadAllBytes(plain), File.ReadAllBytes(rounded));
    }

    [Fact]
    public async Task An_adapter_goes_out_and_comes_back()
    {
        string file = Path.Combine(_folder, "a.gguf");
        JsonNode report = await Report("export", "--model", Fixtures.Path("gguf/tiny-bf16.gguf"), "--adapter", Fixtures.Path("gguf/adapter"), "--adapter-only", "--output", file, "--type", "f32", "--json");
        Assert.Equal(0, (double)report["tensors"]!["largest_difference"]!);
        Assert.Equal(0, (double)report["logits"]!["max_logit_difference"]!);
        JsonNode back = await Report("import", file, "--output", Path.Combine(_folder, "peft"), "--json");
        Assert.Equal(("adapter", 6), ((string?)back["kind"], (int)back["rank"]!));
        Assert.Equal(0, (double)back["tensors"]!["largest_difference"]!);
    }

    [Fact]
    public async Task Faults_are_explained_and_leave_nothing_behind()
    {
        CommandRun run = await CommandRun.OfAsync("export", "--model", Fixtures.Path("models/opt"), "--output", Path.Combine(_folder, "x.gguf"));
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("models of type 'opt' cannot be exported to GGUF", run.Error, StringComparison.Ordinal);
        run = await CommandRun.OfAsync("export", "--model", Fixtures.Path("models/llama"), "--output", Path.Combine(_folder, "x.gguf"), "--type", "q9");
        Assert.Equal(2, run.ExitCode);
        run = await CommandRun.OfAsync("export", "--model", Fixtures.Path("gguf/tiny-bf16.gguf"), "--adapter-only", "--output", Path.Combine(_folder, "x.gguf"), "--type", "f32");
        Assert.Contains("writes one adapter, found 0", run.Error, StringComparison.Ordinal);
        run = await CommandRun.OfAsync("import", Fixtures.Path("gguf/adapter-f32.gguf"), "--output", Path.Combine(_folder, "a"));
        Assert.Contains("--model", run.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder));
    }

    private static async Task<JsonNode> Report(params string[] args)
    {
        CommandRun run = await CommandRun.OfAsync(args);
        Assert.True(run.ExitCode == 0, run.Error);
        return JsonNode.Parse(run.Output)!;
    }
}
