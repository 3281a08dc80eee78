using System.Text.RegularExpressions;
using LoraSharp.Formats;
using LoraSharp.Recipes;

namespace LoraSharp.Tests.Recipes;

public sealed class RecipeTests
{
    private const string Example = """
        model: HuggingFaceTB/SmolLM2-135M-Instruct   # folder, hub name or .gguf
        method: lora
        adapter: { rank: 8, alpha: 16, dropout: 0.1, targets: [q_proj, v_proj], rslora: true, rank_pattern: { down_proj: 2 } }
        data: { train: train.jsonl, validation: 0.05, format: auto, max_length: 512, packing: true, shuffle: true }
        training: { epochs: 3, max_steps: 0, batch_size: 4, gradient_accumulation: 4, learning_rate: 2e-4, schedule: cosine, warmup_steps: 10,
                    weight_decay: 0.0, max_grad_norm: 1.0, seed: 42, gradient_checkpointing: auto, loraplus_ratio: 1 }
        quantization: { type: nf4, double: true }
        output: runs/my-adapter
        """;

    [Fact]
    public void The_documented_recipe_is_read_with_every_value()
    {
        Recipe recipe = RecipeReader.Parse(Example, "r.yaml");

        Assert.Equal("HuggingFaceTB/SmolLM2-135M-Instruct", recipe.Model);
        Assert.Equal(8, recipe.Adapter.Rank);
        Assert.Equal(["q_proj", "v_proj"], recipe.Adapter.Targets.Names);
        Assert.Equal(2, recipe.Adapter.RankPattern["down_proj"]);
        Assert.Equal("train.jsonl", Assert.Single(recipe.Data.Train).Path);
        Assert.Equal("0.05", recipe.Data.Validation);
        Assert.Equal(2e-4, recipe.Training.LearningRate);
        Assert.True(recipe.Quantization.Double);
    }

    [Fact]
    public void Written_and_read_again_it_is_the_same()
    {
        Recipe recipe = RecipeReader.Parse(Example, "r.yaml");
        string yaml = RecipeWriter.ToYaml(recipe);

        Recipe again = RecipeReader.Parse(yaml, "again.yaml");

        Assert.Empty(RecipeWriter.Differences(recipe, again));
        Assert.Equal(yaml, RecipeWriter.ToYaml(again));
    }

    [Fact]
    public void Settings_given_one_by_one_win_over_the_file()
    {
        Recipe recipe = RecipeReader.Parse(Example, "r.yaml", [new("adapter.rank", "2"), new("adapter.targets", "all-linear"), new("data.train", "[a.jsonl, { path: b.jsonl, weight: 2 }]")]);

        Assert.Equal(2, recipe.Adapter.Rank);
        Assert.Equal("all-linear", recipe.Adapter.Targets.Single);
        Assert.Equal(2, recipe.Data.Train[1].Weight);
        Assert.Equal(["adapter.rank: 8 → 2"], RecipeWriter.Differences(RecipeReader.Parse(Example, "r"), RecipeReader.Parse(Example, "r", [new("adapter.rank", "2")])));
    }

    [Fact]
    public void Every_fault_is_listed_at_once_with_its_line_and_the_nearest_key()
    {
        var error = Assert.Throws<MalformedFileException>(() => RecipeReader.Parse("""
            model: m
            output: o
            method: loar
            adapter:
              rnak: 8
              alpha: many
            training: { epochs: -1 }
            """, "bad.yaml"));

        Assert.Contains("bad.yaml: 4 faults", error.Message);
        Assert.Contains("line 3: method is 'loar', expected one of lora, qlora, full.", error.Message);
        Assert.Contains("line 5: unknown key adapter.rnak. Did you mean adapter.rank?", error.Message);
        Assert.Contains("line 6: adapter.alpha must be a number, found 'many'.", error.Message);
        Assert.Contains("training.epochs is -1, expected", error.Message);
    }

    [Theory]
    [InlineData("true", "on")]
    [InlineData("no", "off")]
    [InlineData("auto", "auto")]
    public void A_switch_with_a_third_position_takes_true_and_false(string value, string expected) =>
        Assert.Equal(expected, RecipeReader.Parse($"{{ model: m, output: o, training: {{ gradient_checkpointing: {value} }} }}", "r.yaml").Training.GradientCheckpointing);

    [Fact]
    public void Every_setting_is_described()
    {
        string page = File.ReadAllText(Path.Combine(Fixtures.Root(), "docs", "recipe.md"));
        foreach ((string key, string description, _) in RecipeDocumentation.Settings())
        {
            Assert.True(description.Length > 0, $"{key} has no description");
            Assert.True(Regex.IsMatch(page, $@"\| `{Regex.Escape(key)}` \|"), $"docs/recipe.md does not describe {key}: write it anew with RecipeDocumentation.ToMarkdown()");
        }
    }
}
