using System.Text.Json.Nodes;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Cli.Tests;

public sealed class GenerateCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public async Task Logits_are_those_of_the_reference()
    {
        string output = Path.Combine(_folder, "logits.safetensors");
        CommandRun run = await CommandRun.OfAsync("logits", "--model", Fixtures.Path("models/qwen2"), "--input", Fixtures.Path("models/qwen2/golden.safetensors"), "--output", output, "--device", "cpu");
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        Assert.InRange(Difference(Path.Combine(Fixtures.Path("models/qwen2"), "golden.safetensors"), "logits", output), 0, 1e-4);
    }

    [Fact]
    public async Task Logits_with_an_adapter_are_those_of_the_reference()
    {
        string output = Path.Combine(_folder, "logits.safetensors");
        string golden = Fixtures.Path("adapters/all_linear/golden.safetensors");
        CommandRun run = await CommandRun.OfAsync("logits", "--model", Fixtures.Path("models/llama"), "--adapter", Fixtures.Path("adapters/all_linear"), "--input", golden, "--output", output, "--device", "cpu");
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        Assert.InRange(Difference(golden, "adapter_logits", output), 0, 1e-4);
    }

    [Fact]
    public async Task A_file_without_ids_is_one_plain_error()
    {
        CommandRun run = await CommandRun.OfAsync("logits", "--model", Fixtures.Path("models/llama"), "--input", Fixtures.Path("models/llama/model.safetensors"), "--output", Path.Combine(_folder, "x"), "--device", "cpu");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("has no tensor 'input_ids'", run.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder));
    }

    [Fact]
    public async Task Generate_gives_the_reference_ids_of_the_real_model()
    {
        string model = TinyBase();
        JsonNode golden = JsonNode.Parse(await File.ReadAllTextAsync(Fixtures.Path("tokenizers/tiny-base/golden.json"), TestContext.Current.CancellationToken))!;
        JsonNode first = golden["greedy"]![0]!;
        int[] expected = [.. first["new_ids"]!.AsArray().Select(n => (int)n!)];
        CommandRun run = await CommandRun.OfAsync("generate", "--model", model, "--prompt", "Once upon a time", "--max-tokens", "16", "--temperature", "0", "--ignore-eos", "--device", "cpu", "--json");
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        JsonNode report = JsonNode.Parse(run.Output)!;
        Assert.Equal(expected.Take(16), report["token_ids"]!.AsArray().Select(n => (int)n!));
        Assert.Equal("length", (string)report["finish_reason"]!);
        Assert.Equal(4, (int)report["prompt_tokens"]!);
        Assert.StartsWith((string)report["text"]!, (string)first["text"]!, StringComparison.Ordinal);
        Assert.NotEmpty((string)report["text"]!);
    }

    [Fact]
    public async Task A_schema_holds_the_text()
    {
        string schema = Path.Combine(_folder, "schema.json");
        await File.WriteAllTextAsync(schema, """{"type":"object","properties":{"n":{"type":"integer","minimum":3,"maximum":40},"ok":{"type":"boolean"}},"required":["n","ok"],"additionalProperties":false}""", TestContext.Current.CancellationToken);
        CommandRun run = await CommandRun.OfAsync("generate", "--model", TinyBase(), "--prompt", "Once", "--json-schema", schema, "--temperature", "1", "--seed", "4", "--device", "cpu", "--json");
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        JsonNode report = JsonNode.Parse(run.Output)!;
        Assert.Equal("stop", (string)report["finish_reason"]!);
        JsonNode text = JsonNode.Parse((string)report["text"]!)!;
        Assert.InRange((int)text["n"]!, 3, 40);
        _ = (bool)text["ok"]!;
    }

    [Theory]
    [InlineData("--regex", "[0-9]{4}-[0-9]{2}", 0, "")]
    [InlineData("--regex", "(a)\\1", 1, "a reference to a group")]
    [InlineData("--json-schema", "nowhere.json", 1, "there is no such file")]
    public async Task An_expression_holds_the_text_or_is_refused(string option, string value, int exitCode, string message)
    {
        CommandRun run = await CommandRun.OfAsync("generate", "--model", TinyBase(), "--prompt", "In", option, value, "--device", "cpu");
        Assert.Equal(exitCode, run.ExitCode);
        Assert.Contains(message, run.Error, StringComparison.Ordinal);
        if (exitCode == 0)
        {
            Assert.Matches("^[0-9]{4}-[0-9]{2}$", run.Output.TrimEnd());
        }
    }

    [Fact]
    public async Task Wrong_sampling_is_refused_by_name()
    {
        CommandRun run = await CommandRun.OfAsync("generate", "--model", TinyBase(), "--prompt", "x", "--top-p", "2", "--device", "cpu");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("top_p 2", run.Error, StringComparison.Ordinal);
    }

    private static string TinyBase() => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    private static double Difference(string expectedFile, string expectedName, string actualFile)
    {
        using SafetensorsFile expected = SafetensorsFile.Open(expectedFile), actual = SafetensorsFile.Open(actualFile);
        float[] a = Floats(expected, expectedName), b = Floats(actual, "logits");
        Assert.Equal(a.Length, b.Length);
        return a.Zip(b, (x, y) => Math.Abs(x - y)).Max() / a.Max(Math.Abs);
    }

    private static float[] Floats(SafetensorsFile file, string name)
    {
        Formats.TensorData data = file.Read(name);
        return System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(data.Slice(0, (int)data.Info.ByteCount)).ToArray();
    }
}
