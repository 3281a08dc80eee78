using LoraSharp.Formats.Peft;

namespace LoraSharp.Formats.Tests.Peft;

public sealed class PeftMatchingTests
{
    private const string Q0 = "model.layers.0.self_attn.q_proj";
    private const string Q1 = "model.layers.1.self_attn.q_proj";

    [Theory]
    [InlineData("q_proj", true)]
    [InlineData("self_attn.q_proj", true)]
    [InlineData("model.layers.0.self_attn.q_proj", true)]
    [InlineData("proj", false)]
    [InlineData("attn.q_proj", false)]
    public void A_list_matches_names_and_suffixes_after_a_dot(string name, bool expected) =>
        Assert.Equal(expected, PeftMatching.IsTarget(new PeftConfig { TargetModules = ModuleSelector.List([name]) }, Q0));

    [Theory]
    [InlineData(".*q_proj", true)]
    [InlineData("q_proj", false)]
    [InlineData(@".*\.(0|2)\..*_proj", true)]
    [InlineData(@"model\.layers", false)]
    [InlineData(@".*layers\.(?P<n>\d+)\.self_attn\.q_proj", true)]
    public void A_string_is_an_expression_over_the_whole_path(string pattern, bool expected) =>
        Assert.Equal(expected, PeftMatching.IsTarget(new PeftConfig { TargetModules = ModuleSelector.Regex(pattern) }, Q0));

    [Fact]
    public void Layers_limit_suffixes_but_not_names_in_full()
    {
        var config = new PeftConfig { TargetModules = ModuleSelector.List(["q_proj", "model.layers.3.self_attn.k_proj"]), LayersToTransform = [1] };
        Assert.False(PeftMatching.IsTarget(config, Q0));
        Assert.True(PeftMatching.IsTarget(config, Q1));
        Assert.True(PeftMatching.IsTarget(config, "model.layers.3.self_attn.k_proj"));
        Assert.False(PeftMatching.IsTarget(config with { LayersPattern = ["h"] }, Q1));
        Assert.True(PeftMatching.IsTarget(config with { LayersPattern = ["h", "layers"] }, Q1));
        Assert.True(PeftMatching.IsTarget(config, "model.layers.1.experts.7.q_proj"));
    }

    [Fact]
    public void Exclusion_and_saved_modules_come_first()
    {
        var config = new PeftConfig { TargetModules = ModuleSelector.List(["q_proj", "lm_head"]), ExcludeModules = ModuleSelector.Regex(@".*\.0\..*"), ModulesToSave = ["lm_head"] };
        Assert.False(PeftMatching.IsTarget(config, Q0));
        Assert.True(PeftMatching.IsTarget(config, Q1));
        Assert.False(PeftMatching.IsTarget(config, "lm_head"));
    }

    [Fact]
    public void The_first_pattern_that_matches_the_end_of_a_path_gives_rank_and_alpha()
    {
        var config = new PeftConfig
        {
            Rank = 4,
            Alpha = 8,
            RankPattern = new Dictionary<string, int> { ["layers.1.self_attn.q_proj"] = 6, ["q_proj"] = 2, ["proj"] = 1 },
            AlphaPattern = new Dictionary<string, double> { ["q_.*"] = 3 },
        };
        Assert.Equal(2, PeftMatching.RankOf(config, Q0));
        Assert.Equal(6, PeftMatching.RankOf(config, Q1));
        Assert.Equal(4, PeftMatching.RankOf(config, "model.layers.0.mlp.down_proj"));
        Assert.Equal(3.0 / 6, PeftMatching.ScalingOf(config, Q1));
        Assert.Equal(3.0 / Math.Sqrt(6), PeftMatching.ScalingOf(config with { UseRsLora = true }, Q1));
    }

    [Fact]
    public void A_saved_module_takes_all_below_it_and_ends_matter_letter_for_letter()
    {
        Assert.True(PeftMatching.IsSaved(["mlp"], "model.layers.0.mlp.up_proj"));
        Assert.True(PeftMatching.IsSaved(["norm"], "model.layers.0.input_layernorm"));
        Assert.False(PeftMatching.IsSaved(["norm"], "model.layers.0.self_attn.q_proj"));
    }

    [Fact]
    public void Long_lists_are_condensed_to_the_suffixes_that_single_them_out()
    {
        string[] targets = [.. Enumerable.Range(0, 12).SelectMany(i => new[] { $"decoder.layers.{i}.q_proj", $"decoder.layers.{i}.v_proj" })];
        Assert.Equal(["q_proj", "v_proj"], PeftMatching.Condense(targets, ["decoder.layers.0", "lm_head"]));
        Assert.Contains("0.q_proj", PeftMatching.Condense(targets, ["encoder.q_proj"]));
        Assert.Equal(2, PeftMatching.Condense(targets[..2], []).Count);
    }

    [Fact]
    public void A_pattern_that_explodes_is_stopped()
    {
        var config = new PeftConfig { TargetModules = ModuleSelector.Regex("(a+)+$") };
        Assert.Throws<LoraSharpException>(() => PeftMatching.IsTarget(config, new string('a', 60) + "b"));
    }
}
