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

    [Theory]
    [InlineData("together")]
    [InlineData("single")]
    public async Task TheRecipeSaysWhatVariesAndTheCeilingAndTestRowsAreMeasured(string mode)
    {
        string test = Path.Combine(_folder, "test.jsonl");
        File.WriteAllLines(test, ["""{"input_ids": [5, 6, 7, 8]}""", """{"input_ids": [9, 8, 7]}"""]);
        string sweep = $$"""
            sweep: { ranks: [2], targets: [q_proj, [q_proj, v_proj]], variants: [lora, dora], full_learning_rates: 1e-3, test: {{test}}, test_tokens: 0, mode: {{mode}} }
            """;
        CommandRun run = await CommandRun.OfAsync("sweep", Recipe(sweep), "--json");
        Assert.True(run.ExitCode == 0, run.Error);
        JsonArray trials = JsonNode.Parse(run.Output)!["trials"]!.AsArray();
        Assert.Equal(
            ["lora-r2-a4-q-lr0.005", "lora-r2-a4-q+v-lr0.005", "dora-r2-a4-q-lr0.005", "dora-r2-a4-q+v-lr0.005", "full-lr0.001"],
            trials.Select(t => (string)t!["name"]!));
        Assert.All(trials, t => Assert.InRange((double)t!["test_loss"]!, 1, 10));
        JsonObject full = trials[^1]!.AsObject();
        Assert.Null(full["rank"]);
        Assert.True((long)full["parameters"]! > 10 * (long)trials[0]!["parameters"]!);
        string[] csv = File.ReadAllLines(Path.Combine(_folder, "out", "sweep.csv"));
        Assert.Equal(6, csv.Length);
        Assert.StartsWith("lora-r2-a4-q+v-lr0.005,lora,2,4,\"q_proj, v_proj\",0.005,", csv[2], StringComparison.Ordinal);
        Assert.Contains("Training every weight (full-lr0.001)", File.ReadAllText(Path.Combine(_folder, "out", "sweep.json")), StringComparison.Ordinal);
        Assert.False(Directory.Exists(Path.Combine(_folder, "out", "adapters", "full-lr0.001")));
    }

    [Fact]
    public async Task HalvedTrialsAreMeasuredByWhatTheyGenerate()
    {
        string rows = Path.Combine(_folder, "texts.jsonl");
        File.WriteAllLines(rows, Enumerable.Range(0, 8).Select(i => $$"""{"prompt": "Count: ", "completion": "{{string.Join(' ', Enumerable.Range(0, 1 + (i % 4)))}}"}"""));
        CommandRun run = await CommandRun.OfAsync(
            "sweep", Recipe(), "--ranks", "2,4", "--halve-every", "2", "--test", rows, "--json",
            "--set", $"model={TrainingFolder.TinyBase}", $"data.train={rows}", "sweep.test_tokens=4", "sweep.test_rows=2");
        Assert.True(run.ExitCode == 0, run.Error);
        JsonArray trials = JsonNode.Parse(run.Output)!["trials"]!.AsArray();
        Assert.Equal([2, 5], trials.Select(t => (int)t!["steps"]!).Order());
        Assert.All(trials, t => Assert.InRange((double)t!["bleu"]!, 0, 100));
        Assert.All(trials, t => Assert.InRange((double)t!["exact_match"]!, 0, 100));
        Assert.True(new FileInfo(Path.Combine(_folder, "out", "sweep.png")).Length > 1000);
    }

    [Fact]
    public async Task OneByOneEqualsSideBySide()
    {
        CommandRun together = await CommandRun.OfAsync("sweep", Recipe(), "--ranks", "2,4", "--json");
        CommandRun single = await CommandRun.OfAsync("sweep", Recipe(), "--ranks", "2,4", "--set", "sweep.mode=single", "overwrite=true", "--json");
        Assert.True(together.ExitCode + single.ExitCode == 0, together.Error + single.Error);
        double[] Losses(CommandRun run) => [.. JsonNode.Parse(run.Output)!["trials"]!.AsArray().Select(t => (double)t!["loss"]!)];
        Assert.Equal(Losses(single), Losses(together), (a, b) => Math.Abs(a - b) < 1e-5);
    }

    [Fact]
    public async Task EveryFaultOfTheGridIsNamed()
    {
        CommandRun run = await CommandRun.OfAsync("sweep", Recipe("sweep: { ranks: [0], variants: [vera] }"));
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("sweep.ranks: expected whole numbers above 0, found 0", run.Error, StringComparison.Ordinal);
        Assert.Contains("found 'vera'", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task NumbersThatAreNone()
    {
        CommandRun run = await CommandRun.OfAsync("sweep", Recipe(), "--ranks", "2,x");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("--ranks: expected whole numbers above 0 with commas between them, found 'x'", run.Error, StringComparison.Ordinal);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string Recipe(string more = "")
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
            {{more}}
            """);
        return recipe;
    }
}
