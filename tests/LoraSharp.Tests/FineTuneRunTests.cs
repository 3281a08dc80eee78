using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Recipes;
using LoraSharp.Tensors;
using LoraSharp.Training;
using TorchSharp;

namespace LoraSharp.Tests;

/// <summary>From a recipe to a run folder: the main path, on a fixture of PEFT's.</summary>
public sealed class FineTuneRunTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-run-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [InlineData("lora")]
    [InlineData("full")]
    public void A_recipe_gives_the_references_losses_and_a_whole_run_folder(string name)
    {
        Recipe recipe = RecipeOf(name, "run");
        FineTuneResult result = new FineTuneRun(recipe).Execute(cancellation: TestContext.Current.CancellationToken);

        Assert.True(result.Complete);
        double[] expected = Golden(name);
        double[] losses = Losses(result.Folder);
        Assert.Equal(expected.Length, losses.Length);
        Assert.All(expected.Zip(losses), p => Assert.Equal(p.First, p.Second, 1e-5));
        Assert.True(File.ReadAllBytes(Path.Combine(result.Folder, "loss.png")).AsSpan().StartsWith((ReadOnlySpan<byte>)[0x89, (byte)'P', (byte)'N', (byte)'G']));
        Assert.Empty(RecipeWriter.Differences(recipe, RecipeReader.Read(Path.Combine(result.Folder, "recipe.yaml"))));
        Assert.Contains("base_model:", File.ReadAllText(Path.Combine(result.Folder, "README.md")));
        if (name == "full")
        {
            using ModelSource trained = ModelSource.OpenFolder(result.Folder);
            using ModelSource start = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
            Assert.Equal(start.Tensors.Tensors.Keys.Order(), trained.Tensors.Tensors.Keys.Order());
        }
        else
        {
            using AdapterFolder adapter = AdapterFolder.Open(result.Folder);
            Assert.Equal(4, adapter.Config.Rank);
        }
    }

    [Fact]
    public void Ranks_found_in_the_data_outlast_an_interruption()
    {
        Recipe Eva(string output) => RecipeOf("lora", output) with { Adapter = new AdapterRecipe { Init = "eva", Rank = 3, RankDropout = 0.2 } };
        FineTuneResult whole = new FineTuneRun(Eva("whole")).Execute(cancellation: TestContext.Current.CancellationToken);
        var notes = new List<string>();
        using var stop = new CancellationTokenSource();
        FineTuneResult cut = new FineTuneRun(Eva("cut")).Execute([new StopAfter(5, stop)], cancellation: stop.Token);
        FineTuneResult rest = new FineTuneRun(Eva("cut")).Execute(notes: notes.Add, cancellation: TestContext.Current.CancellationToken);

        Assert.False(cut.Complete);
        Assert.DoesNotContain(notes, n => n.Contains("EVA", StringComparison.Ordinal));
        using AdapterFolder adapter = AdapterFolder.Open(rest.Folder);
        Assert.NotEmpty(adapter.Config.RankPattern);
        Assert.Equal(Losses(whole.Folder), Losses(rest.Folder));
        Assert.Equal(File.ReadAllBytes(Path.Combine(whole.Folder, AdapterFolder.WeightsName)), File.ReadAllBytes(Path.Combine(rest.Folder, AdapterFolder.WeightsName)));
    }

    [Fact]
    public void A_run_that_was_stopped_goes_on_to_the_same_end()
    {
        FineTuneResult whole = new FineTuneRun(RecipeOf("lora", "whole")).Execute(cancellation: TestContext.Current.CancellationToken);
        Recipe recipe = RecipeOf("lora", "cut");
        using var stop = new CancellationTokenSource();
        FineTuneResult cut = new FineTuneRun(recipe).Execute([new StopAfter(5, stop)], cancellation: stop.Token);
        FineTuneResult rest = new FineTuneRun(recipe).Execute(cancellation: TestContext.Current.CancellationToken);

        Assert.False(cut.Complete);
        Assert.True(rest.Complete);
        Assert.Equal(Losses(whole.Folder), Losses(rest.Folder));
        Assert.Equal(File.ReadAllBytes(Path.Combine(whole.Folder, "adapter_model.safetensors")), File.ReadAllBytes(Path.Combine(rest.Folder, "adapter_model.safetensors")));
    }

    [Fact]
    public void A_finished_run_is_not_overwritten_and_a_changed_recipe_is_not_gone_on_with()
    {
        Recipe recipe = RecipeOf("lora", "once");
        using var stop = new CancellationTokenSource();
        new FineTuneRun(recipe).Execute([new StopAfter(5, stop)], cancellation: stop.Token);
        var changed = Assert.Throws<LoraSharpException>(() => new FineTuneRun(recipe with { Training = recipe.Training with { LearningRate = 1e-3 } }).Execute(cancellation: TestContext.Current.CancellationToken));
        new FineTuneRun(recipe).Execute(cancellation: TestContext.Current.CancellationToken);
        var finished = Assert.Throws<LoraSharpException>(() => new FineTuneRun(recipe).Execute(cancellation: TestContext.Current.CancellationToken));

        Assert.Contains("learning_rate", changed.Message);
        Assert.Contains("finished run", finished.Message);
        Assert.Contains("--overwrite", finished.Message);
    }

    [Fact]
    public void A_folder_with_other_files_is_left_alone()
    {
        Directory.CreateDirectory(Path.Combine(_folder.FullName, "mine"));
        File.WriteAllText(Path.Combine(_folder.FullName, "mine", "thesis.txt"), "words");

        var error = Assert.Throws<LoraSharpException>(() => new FineTuneRun(RecipeOf("lora", "mine")).Execute(cancellation: TestContext.Current.CancellationToken));

        Assert.Contains("holds other files", error.Message);
        Assert.Equal("words", File.ReadAllText(Path.Combine(_folder.FullName, "mine", "thesis.txt")));
    }

    [Fact]
    public async Task A_run_is_a_stream_of_events()
    {
        var events = new List<TrainingEvent>();
        await foreach (TrainingEvent happened in new FineTuneRun(RecipeOf("lora", "stream")).StreamAsync(cancellation: TestContext.Current.CancellationToken))
        {
            events.Add(happened);
        }

        Assert.IsType<TrainingStarted>(events[0]);
        Assert.Equal(Enumerable.Range(1, 12).Select(i => (long)i), events.OfType<StepCompleted>().Select(s => s.Step));
        Assert.Equal(TrainingEnd.Completed, Assert.IsType<TrainingEnded>(events[^1]).End);
        Assert.True(File.Exists(Path.Combine(_folder.FullName, "stream", "adapter_model.safetensors")));
    }

    [Fact]
    public async Task Leaving_the_stream_saves_and_a_second_one_goes_on()
    {
        Recipe recipe = RecipeOf("lora", "left");
        await foreach (TrainingEvent happened in new FineTuneRun(recipe).StreamAsync(cancellation: TestContext.Current.CancellationToken))
        {
            if (happened is StepCompleted { Step: 3 })
            {
                break;
            }
        }

        var events = new List<TrainingEvent>();
        await foreach (TrainingEvent happened in new FineTuneRun(recipe).StreamAsync(cancellation: TestContext.Current.CancellationToken))
        {
            events.Add(happened);
        }

        TrainingStarted started = Assert.IsType<TrainingStarted>(events[0]);
        Assert.NotNull(started.ResumedFrom);
        Assert.InRange(started.Step, 3, 11);
        Assert.Equal(TrainingEnd.Completed, Assert.IsType<TrainingEnded>(events[^1]).End);
    }

    [Fact]
    public async Task A_cancelled_stream_ends_with_how_to_go_on_and_a_failed_one_throws()
    {
        using var stop = new CancellationTokenSource();
        var events = new List<TrainingEvent>();
        await foreach (TrainingEvent happened in new FineTuneRun(RecipeOf("lora", "cancelled")).StreamAsync(cancellation: stop.Token))
        {
            events.Add(happened);
            if (happened is StepCompleted { Step: 2 })
            {
                await stop.CancelAsync();
            }
        }

        TrainingEnded ended = Assert.IsType<TrainingEnded>(events[^1]);
        Assert.Equal(TrainingEnd.Interrupted, ended.End);
        Assert.Contains("run the same command again", ended.Message);
        Recipe missing = RecipeOf("lora", "missing") with { Model = "nowhere/nothing" };
        await Assert.ThrowsAnyAsync<LoraSharpException>(async () =>
        {
            await foreach (TrainingEvent _ in new FineTuneRun(missing).StreamAsync(cancellation: TestContext.Current.CancellationToken))
            {
            }
        });
    }

    [Fact]
    public void The_card_tells_data_recipe_versions_and_results()
    {
        Recipe recipe = RecipeOf("lora", "card");
        string folder = new FineTuneRun(recipe with { Report = new ReportRecipe { Tensorboard = true } }).Execute(cancellation: TestContext.Current.CancellationToken).Folder;

        string card = File.ReadAllText(Path.Combine(folder, "README.md"));
        foreach (string told in (string[])["base_model_relation: adapter", "## Data", "`lora.jsonl` | 24 rows (tokenized)", "## Results", "at the first step", "## Made with", "TorchSharp | 0.107", ".NET 10", "cpu, base in float32", "GB resident", "## Recipe", "  learning_rate: "])
        {
            Assert.Contains(told, card);
        }

        Assert.Single(Directory.GetFiles(Path.Combine(folder, "tensorboard")));
    }

    private Recipe RecipeOf(string name, string output)
    {
        string folder = Fixtures.Path("training/" + name);
        JsonObject told = JsonFile.ReadObject(Path.Combine(folder, "recipe.json"));
        string data = Path.Combine(_folder.FullName, name + ".jsonl");
        File.WriteAllLines(data, Rows(folder));
        var settings = new Dictionary<string, string>
        {
            ["model"] = Fixtures.Path((string)told["base"]!),
            ["method"] = name == "full" ? "full" : "lora",
            ["output"] = Path.Combine(_folder.FullName, output),
            ["data.train"] = data,
            ["data.shuffle"] = "false",
            ["device"] = "cpu",
            ["training.max_steps"] = "12",
            ["training.batch_size"] = "2",
            ["training.gradient_accumulation"] = "1",
            ["training.learning_rate"] = told["lr"]!.ToJsonString(),
            ["training.weight_decay"] = "0.01",
            ["training.warmup_steps"] = "3",
        };
        if (name != "full")
        {
            settings["adapter.init_from"] = Path.Combine(folder, "initial");
        }

        return RecipeReader.Read(null, settings);
    }

    private static IEnumerable<string> Rows(string folder)
    {
        using var golden = SafetensorsFile.Open(Path.Combine(folder, "golden.safetensors"));
        long[][] parts = [.. ((string[])["input_ids", "labels", "attention_mask"]).Select(n => Values<long>(golden, n))];
        int length = (int)golden.Tensors["input_ids"].Shape[^1];
        for (int row = 0; row < parts[0].Length / length; row++)
        {
            long[][] cut = [.. parts.Select(p => p[(row * length)..((row + 1) * length)])];
            yield return JsonSerializer.Serialize(new { input_ids = cut[0], labels = cut[1], attention_mask = cut[2] });
        }
    }

    private static double[] Golden(string name)
    {
        using var golden = SafetensorsFile.Open(Path.Combine(Fixtures.Path("training/" + name), "golden.safetensors"));
        return [.. Values<float>(golden, "loss").Select(l => (double)l)];
    }

    private static T[] Values<T>(SafetensorsFile file, string name)
        where T : unmanaged
    {
        using torch.Tensor tensor = TensorBytes.ToTensor(file.Read(name), null, torch.CPU);
        return tensor.data<T>().ToArray();
    }

    private static double[] Losses(string folder) =>
        [.. File.ReadLines(Path.Combine(folder, "metrics.jsonl")).Select(l => JsonNode.Parse(l)!["loss"]).OfType<JsonNode>().Select(l => (double)l)];

    private sealed class StopAfter(long step, CancellationTokenSource stop) : ITrainingObserver
    {
        public void On(TrainingEvent happened)
        {
            if (happened is StepCompleted { Step: var done } && done == step)
            {
                stop.Cancel();
            }
        }
    }
}
