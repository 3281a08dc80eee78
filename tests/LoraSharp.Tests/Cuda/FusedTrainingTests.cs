using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Peft;
using LoraSharp.Recipes;

namespace LoraSharp.Tests.Cuda;

/// <summary>A whole run on a GPU by the fused step against the same run by libtorch's operators, on a random base with an embedding and a head of their own.</summary>
public sealed class FusedTrainingTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-fused-");

    public void Dispose() => _folder.Delete(recursive: true);

    /// <summary>With checkpointing the embedding waits in host memory, where validation reads it too.</summary>
    [Theory]
    [InlineData("llama", "lora", "off", 1)]
    [InlineData("llama", "lora", "on", 2)]
    [InlineData("llama", "qlora", "on", 1)]
    [InlineData("qwen3", "lora", "off", 1)]
    [InlineData("qwen3", "qlora", "on", 2)]
    public void Its_losses_are_the_plain_steps(string family, string method, string checkpointing, int accumulation)
    {
        TestDevice.GpuOrSkip();
        RandomBase.Write(Path.Combine(_folder.FullName, "base"), family);
        WriteRows();
        (double[] losses, double validation, string[] notes) = Run(method, checkpointing, accumulation, "auto");
        (double[] plain, double plainValidation, _) = Run(method, checkpointing, accumulation, "off");

        Assert.DoesNotContain(notes, n => n.Contains("fused step is not used", StringComparison.Ordinal));
        Assert.Equal(12, losses.Length);
        Assert.All(plain.Zip(losses), p => Assert.Equal(p.First, p.Second, 0.02 * p.First));
        Assert.Equal(plainValidation, validation, 0.02 * plainValidation);
        Assert.True(losses[^1] < 0.9 * losses[0], "nothing was learnt");
    }

    private (double[] Losses, double Validation, string[] Notes) Run(string method, string checkpointing, int accumulation, string fused)
    {
        var notes = new List<string>();
        Recipe recipe = RecipeReader.Read(null, new Dictionary<string, string>
        {
            ["model"] = Path.Combine(_folder.FullName, "base"),
            ["method"] = method,
            ["output"] = Path.Combine(_folder.FullName, $"{method}-{checkpointing}-{fused}"),
            ["data.train"] = Path.Combine(_folder.FullName, "rows.jsonl"),
            ["data.validation"] = "0.2",
            ["data.packing"] = "true",
            ["data.max_length"] = "64",
            ["device"] = "cuda",
            ["dtype"] = "bfloat16",
            ["adapter.rank"] = "4",
            ["adapter.targets"] = "all-linear",
            ["training.max_steps"] = "12",
            ["training.batch_size"] = "2",
            ["training.gradient_accumulation"] = $"{accumulation}",
            ["training.learning_rate"] = "1e-2",
            ["training.gradient_checkpointing"] = checkpointing,
            ["training.fused_step"] = fused,
        });
        FineTuneResult result = new FineTuneRun(recipe).Execute(notes: notes.Add, cancellation: TestContext.Current.CancellationToken);
        JsonNode[] lines = [.. File.ReadLines(Path.Combine(result.Folder, "metrics.jsonl")).Select(l => JsonNode.Parse(l)!)];
        using AdapterFolder adapter = AdapterFolder.Open(result.Folder);
        Assert.Equal(4, adapter.Config.Rank);
        return ([.. lines.Select(l => l["loss"]).OfType<JsonNode>().Select(l => (double)l)], (double)lines.Select(l => l["eval_loss"]).OfType<JsonNode>().Last(), [.. notes]);
    }

    private void WriteRows()
    {
        var random = new Random(5);
        File.WriteAllLines(Path.Combine(_folder.FullName, "rows.jsonl"), Enumerable.Range(0, 60).Select(_ =>
        {
            // Runs of numbers: something to learn. Tokenized rows would not be packed.
            int start = random.Next(RandomBase.Vocabulary);
            return JsonSerializer.Serialize(new { text = string.Join(' ', Enumerable.Range(start, random.Next(10, 40)).Select(i => $"w{i % RandomBase.Vocabulary}")) });
        }));
    }
}
