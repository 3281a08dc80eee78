using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Recipes;
using LoraSharp.Training;

namespace LoraSharp.Tests;

/// <summary>GRPO from a recipe to an adapter: completions sampled by the engine, judged by a pattern or by C#.</summary>
public sealed class RewardRunTests : IDisposable
{
    private static readonly string TinyBase = Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-reward-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public void The_reward_of_a_pattern_rises_and_the_divergence_from_the_base_with_it()
    {
        FineTuneResult result = Run(Recipe("pattern", ("grpo.reward", "regex"), ("grpo.pattern", "^[^,]{0,30}$"), ("grpo.beta", "0.01")));

        double[] rewards = Metric(result, "reward");
        Assert.True(rewards.TakeLast(3).Average() > rewards[0] + 0.3, string.Join(", ", rewards));
        double[] divergences = Metric(result, "kl");
        Assert.Equal(0, divergences[0], 6);
        Assert.True(divergences[^1] > 0.01, string.Join(", ", divergences));
        Assert.All(Metric(result, "reward_std"), s => Assert.InRange(s, 0, 0.6));
        Assert.Contains("GRPO, reward regex", File.ReadAllText(Path.Combine(result.Folder, "README.md")));
    }

    [Theory]
    [InlineData("1")]
    [InlineData("3")]
    public void A_run_that_was_stopped_goes_on_to_the_same_end(string iterations)
    {
        (string, string)[] settings = [("grpo.reward", "regex"), ("grpo.pattern", "the"), ("training.max_steps", "5"), ("training.save_steps", "1"), ("grpo.iterations", iterations), ("training.gradient_accumulation", "2")];
        FineTuneResult whole = Run(Recipe("whole", settings));
        Recipe cut = Recipe("cut", settings);
        using var stop = new CancellationTokenSource();
        Assert.False(new FineTuneRun(cut).Execute([new StopAfter(2, stop)], cancellation: stop.Token).Complete);
        FineTuneResult rest = Run(cut);

        Assert.Equal(Metric(whole, "reward"), Metric(rest, "reward"));
        Assert.Equal(File.ReadAllBytes(Path.Combine(whole.Folder, "adapter_model.safetensors")), File.ReadAllBytes(Path.Combine(rest.Folder, "adapter_model.safetensors")));
    }

    [Fact]
    public void A_delegate_sees_texts_and_decides()
    {
        var seen = new List<(string Prompt, string Reference, string Completion)>();
        FineTuneResult result = new FineTuneRun(Recipe("delegate", ("training.max_steps", "2")))
        {
            Reward = (prompt, reference, completion) =>
            {
                seen.Add((prompt, reference, completion));
                return completion.Length;
            },
        }.Execute(cancellation: TestContext.Current.CancellationToken);

        Assert.Equal(2 * 2 * 6, seen.Count);
        Assert.All(seen, s => Assert.StartsWith("Question ", s.Prompt));
        Assert.All(seen, s => Assert.Equal("yes", s.Reference));
        Assert.Equal(seen.Take(12).Average(s => s.Completion.Length), Metric(result, "reward")[0], 6);
    }

    [Theory]
    [InlineData("expected one of none, exact_match, regex", "grpo.reward", "best")]
    [InlineData("grpo.pattern is missing", "grpo.reward", "regex")]
    [InlineData("is no regular expression", "grpo.reward", "regex", "grpo.pattern", "(")]
    [InlineData("are both set", "grpo.reward", "exact_match", "preference.loss", "dpo")]
    [InlineData("train_on", "grpo.reward", "exact_match", "data.train_on", "all")]
    [InlineData("adapter.dropout: 0", "grpo.reward", "exact_match", "adapter.dropout", "0.1")]
    public void Faulty_settings_are_told(string expected, params string[] settings)
    {
        var error = Assert.Throws<MalformedFileException>(() =>
        {
            try
            {
                Run(Recipe("faulty", [.. settings.Chunk(2).Select(s => (s[0], s[1]))]));
            }
            catch (LoraSharpException e) when (e is not MalformedFileException)
            {
                throw new MalformedFileException("run", e.Message);
            }
        });
        Assert.Contains(expected, error.Message);
    }

    [Fact]
    public void A_reward_that_is_no_number_is_told_with_its_row()
    {
        var run = new FineTuneRun(Recipe("nan")) { Reward = (_, _, _) => double.NaN };
        var error = Assert.Throws<LoraSharpException>(() => run.Execute(cancellation: TestContext.Current.CancellationToken));
        Assert.Contains("rows.jsonl", error.Message);
        Assert.Contains("Expected a finite number", error.Message);
    }

    private static FineTuneResult Run(Recipe recipe) => new FineTuneRun(recipe).Execute(cancellation: TestContext.Current.CancellationToken);

    private Recipe Recipe(string output, params (string Key, string Value)[] settings)
    {
        string data = Path.Combine(_folder.FullName, "rows.jsonl");
        File.WriteAllLines(data, Enumerable.Range(0, 12).Select(i => new JsonObject { ["prompt"] = $"Question {i}: is it? Answer:", ["completion"] = "yes" }.ToJsonString()));
        var all = new Dictionary<string, string>
        {
            ["model"] = TinyBase,
            ["device"] = "cpu",
            ["output"] = Path.Combine(_folder.FullName, output),
            ["data.train"] = data,
            ["adapter.rank"] = "8",
            ["training.max_steps"] = "12",
            ["training.batch_size"] = "2",
            ["training.gradient_accumulation"] = "1",
            ["training.learning_rate"] = "8e-3",
            ["training.schedule"] = "constant",
            ["training.warmup_steps"] = "0",
            ["grpo.group_size"] = "6",
            ["grpo.max_tokens"] = "10",
        };
        foreach ((string key, string value) in settings)
        {
            all[key] = value;
        }

        return RecipeReader.Read(null, all);
    }

    private static double[] Metric(FineTuneResult result, string name) =>
        [.. File.ReadLines(Path.Combine(result.Folder, "metrics.jsonl")).Select(l => JsonNode.Parse(l)![name]).OfType<JsonNode>().Select(v => (double)v)];

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
