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

    public static TheoryData<string, string?> Exportable
    {
        get
        {
            string[] no = ["deepseek_v3", "gpt_oss", "helium", "llama_dynamic_rope", "opt"];
            var data = new TheoryData<string, string?>();
            foreach (string name in Directory.EnumerateDirectories(Fixtures.Path("models")).Select(d => Path.GetFileName(d)!).Order(StringComparer.Ordinal).Except(no))
            {
                data.Add(name, null);
            }

            data.Add("gpt_neox", """{"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5}}""");
            data.Add("mixtral", """{"sliding_window": 4}""");
            data.Add("qwen2_yarn", """{"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.5}}""");
            data.Add("qwen2_yarn", """{"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 1.5, "beta_fast": 16}}""");
            data.Add("qwen2_yarn", """{"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 64}}""");
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Exportable))]
    public async Task A_family_computes_the_same_from_its_file(string name, string? changes)
    {
        string model = Copy(name, changes);
        string file = Path.Combine(_folder, "m.gguf");
        JsonNode report = await Report("export", "--model", model, "--output", file, "--type", "f32", "--json");

        Assert.InRange((double)report["logits"]!["max_logit_difference"]!, 0, 2e-5);
        Assert.Contains(report["warnings"]!.AsArray(), w => w!.ToString().Contains("no tokenizer", StringComparison.Ordinal));
        JsonNode back = await Report("import", file, "--output", Path.Combine(_folder, "back"), "--json");
        Assert.Equal(0, (double)back["logits"]!["max_logit_difference"]!);
    }

    [Theory]
    [InlineData("gpt2", "{\"scale_attn_weights\": false}", "scale_attn_weights")]
    [InlineData("gpt2", "{\"scale_attn_by_inverse_layer_idx\": true}", "scale_attn_by_inverse_layer_idx")]
    [InlineData("llama", "{\"rope_parameters\": {\"rope_theta\": 1e4, \"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}}", "partial_rotary_factor")]
    [InlineData("qwen2_yarn", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"truncate\": false}}", "truncate")]
    [InlineData("olmo2", "{\"attention_bias\": true}", "attention_bias")]
    [InlineData("cohere2", "{\"attention_bias\": true}", "attention_bias")]
    [InlineData("gpt_neox", "{\"attention_bias\": false}", "attention_bias")]
    public async Task What_a_file_cannot_say_is_refused_before_it_is_written(string name, string changes, string key)
    {
        string file = Path.Combine(_folder, "m.gguf");
        CommandRun run = await CommandRun.OfAsync("export", "--model", Copy(name, changes), "--output", file);

        Assert.Equal(1, run.ExitCode);
        Assert.Contains(key, run.Error, StringComparison.Ordinal);
        Assert.False(File.Exists(file));
    }

    // A fixture with other settings; its random weights fit them as well.
    private string Copy(string name, string? changes)
    {
        string folder = Directory.CreateDirectory(Path.Combine(_folder, name)).FullName;
        foreach (string file in Directory.EnumerateFiles(Fixtures.Path("models/" + name)))
        {
            File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
        }

        if (changes is not null)
        {
            string path = Path.Combine(folder, "config.json");
            JsonObject config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
            foreach ((string key, JsonNode? value) in JsonNode.Parse(changes)!.AsObject())
            {
                config[key] = value?.DeepClone();
            }

            File.WriteAllText(path, config.ToJsonString());
        }

        return folder;
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
