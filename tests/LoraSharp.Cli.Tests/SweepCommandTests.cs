using System.Text.Json.Nodes;

namespace LoraSharp.Cli.Tests;

public sealed class SweepCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("sweep").FullName;

    [Fact]
    public async Task TrainsTheGridAndRecommends()
    {
        string recipe = Recipe();
        CommandRun run = await CommandRun.OfAsync("sweep", recipe, "--ranks", "2,4", "--targets", "q_proj,v_proj", "all-linear", "--learning-rates", "1e-3,1e-2", "--json");
        Assert.True(run.ExitCode == 0, run.Error);
        JsonObject json = JsonNode.Parse(run.Output)!.AsObject();
        Assert.Equal(8, json["trials"]!.AsArray().Count);
        string[] names = [.. json["trials"]!.AsArray().Select(t => (string)t!["name"]!)];
        Assert.Contains("r2-a4-q+v-lr0.001", names);
        Assert.Contains((string)json["recommended"]!, names);
        Assert.All(json["trials"]!.AsArray(), t => Assert.Equal(5, (int)t!["steps"]!));
        string output = Path.Combine(_folder, "out");
        Assert.All(names, n => Assert.True(File.Exists(Path.Combine(output, "adapters", n, "adapter_model.safetensors"))));
        Assert.True(new FileInfo(Path.Combine(output, "sweep.png")).Length > 1000);
        Assert.Equal(8, JsonNode.Parse(File.ReadAllText(Path.Combine(output, "sweep.json")))!["trials"]!.AsArray().Count);

        CommandRun again = await CommandRun.OfAsync("sweep", recipe);
        Assert.Equal(1, again.ExitCode);
        Assert.Contains("not empty", again.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ATableWithReasons()
    {
        CommandRun run = await CommandRun.OfAsync("sweep", Recipe(), "--ranks", "2,4");
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains("validation loss", run.Output, StringComparison.Ordinal);
        Assert.Contains("recommended", run.Output, StringComparison.Ordinal);
        Assert.Contains("has the lowest loss", run.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task NumbersThatAreNone()
    {
        CommandRun run = await CommandRun.OfAsync("sweep", Recipe(), "--ranks", "2,x");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("--ranks: expected whole numbers above 0 with commas between them, found 'x'", run.Error, StringComparison.Ordinal);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string Recipe()
    {
        string data = Path.Combine(_folder, "rows.jsonl");
        Random random = new(1);
        File.WriteAllLines(data, Enumerable.Range(0, 12).Select(_ => $$"""{"input_ids": [{{string.Join(", ", Enumerable.Range(0, 8).Select(_ => random.Next(3, 160)))}}]}"""));
        string recipe = Path.Combine(_folder, "recipe.yaml");
        File.WriteAllText(recipe, $$"""
            model: {{Fixtures.Path("models/llama")}}
            adapter: { rank: 4, alpha: 8 }
            data: { train: {{data}}, validation: 2, packing: false }
            training: { max_steps: 5, batch_size: 2, gradient_accumulation: 1, learning_rate: 5e-3, warmup_steps: 0 }
            output: {{Path.Combine(_folder, "out")}}
            """);
        return recipe;
    }
}
