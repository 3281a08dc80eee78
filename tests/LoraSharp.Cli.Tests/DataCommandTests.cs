using System.Text.Json.Nodes;

namespace LoraSharp.Cli.Tests;

public sealed class DataCommandTests : IDisposable
{
    private static readonly string Model = Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public async Task Preview_shows_rows_masks_lengths_and_what_is_left_out()
    {
        string data = Path.Combine(_folder, "rows.jsonl");
        await File.WriteAllLinesAsync(data, ["""{"prompt": "Say hello: ", "completion": "hello there"}""", """{"prompt": "Say hello: ", "completion": "hello there"}""", """{"prompt": "Say no: ", "completion": ""}"""], TestContext.Current.CancellationToken);
        string recipe = Path.Combine(_folder, "recipe.yaml");
        await File.WriteAllTextAsync(recipe, $"model: {Model}\ndata: {{ train: {data} }}\n", TestContext.Current.CancellationToken);
        CommandRun run = await CommandRun.OfAsync("data", "preview", recipe);
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        Assert.Contains("Say hello: ⟦hello there", run.Output, StringComparison.Ordinal);
        Assert.Contains("1 of 3 rows were left out: the completion is empty", run.Output, StringComparison.Ordinal);
        Assert.Contains("1 training rows equal an earlier one", run.Output, StringComparison.Ordinal);
        CommandRun json = await CommandRun.OfAsync("data", "preview", recipe, "--json", "--rows", "1");
        JsonNode report = JsonNode.Parse(json.Output)!;
        JsonArray tokens = report["rows"]!.AsArray().Single()!["tokens"]!.AsArray();
        Assert.Equal("hello there", string.Concat(tokens.Where(t => (bool)t!["trained"]!).SkipLast(1).Select(t => (string)t!["text"]!)));
        Assert.Equal((2, 3, 1L), ((int)report["train"]!["examples"]!, (int)report["rows_read"]!, (long)report["duplicates"]!));
    }

    [Fact]
    public async Task A_malformed_row_is_one_error_with_its_place()
    {
        string data = Path.Combine(_folder, "rows.jsonl");
        await File.WriteAllLinesAsync(data, ["""{"prompt": "a", "completion": "b"}""", """{"prompt": "a", "completion": """], TestContext.Current.CancellationToken);
        CommandRun run = await CommandRun.OfAsync("data", "preview", "--set", $"model={Model}", $"data.train={data}");
        Assert.Equal(1, run.ExitCode);
        Assert.StartsWith($"error: {data}:2:", run.Error, StringComparison.Ordinal);
    }
}
