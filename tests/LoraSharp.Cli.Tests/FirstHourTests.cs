namespace LoraSharp.Cli.Tests;

/// <summary>What someone meets who has never used the command: typing errors, wrong folders, small data.</summary>
public sealed class FirstHourTests : IDisposable
{
    private readonly TrainingFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("trian", "error: there is no command 'trian'. Did you mean train?")]
    [InlineData("frobnicate", "error: there is no command 'frobnicate'. Commands: quickstart, train,")]
    public async Task A_mistyped_command_is_one_error_with_the_nearest_one(string word, string expected)
    {
        CommandRun run = await CommandRun.OfAsync(word);

        Assert.Equal(2, run.ExitCode);
        Assert.StartsWith(expected, run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("Required command", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_mistyped_option_is_told_the_nearest_one()
    {
        CommandRun run = await CommandRun.OfAsync("generate", "--modle", TrainingFolder.TinyBase, "--prompt", "x");

        Assert.Equal(2, run.ExitCode);
        Assert.Equal("error: there is no option --modle. Did you mean --model?\nTry: lora generate --help\n", run.Error.ReplaceLineEndings("\n"));
    }

    [Theory]
    [InlineData("quickstart")]
    [InlineData("preview", "data")]
    public async Task A_group_without_a_command_shows_what_there_is(string expected, params string[] words)
    {
        CommandRun run = await CommandRun.OfAsync(words);

        Assert.Equal(2, run.ExitCode);
        Assert.Contains($"  {expected} ", run.Output, StringComparison.Ordinal);
        Assert.Empty(run.Error);
    }

    [Theory]
    [InlineData("train")]
    [InlineData("eval")]
    [InlineData("generate")]
    [InlineData("chat")]
    [InlineData("merge")]
    [InlineData("quantize")]
    [InlineData("export")]
    [InlineData("inspect")]
    [InlineData("serve")]
    [InlineData("logits")]
    public async Task Every_command_that_computes_with_a_model_takes_type_device_and_quantisation(string command)
    {
        CommandRun run = await CommandRun.OfAsync(command, "--dtype", "float32", "--device", "cpu", "--quantize", "nf4", "--help");

        Assert.True(run.ExitCode == 0, run.Error);
        Assert.All((string[])["--dtype <", "--device <", "--quantize"], option => Assert.Contains(option, run.Output, StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_device_that_is_none_is_told_what_devices_are()
    {
        CommandRun run = await CommandRun.OfAsync("merge", "--model", Fixtures.Path("models/llama"), "--adapter", Fixtures.Path("adapters/all_linear"), "--output", _folder.Path("merged"), "--device", "cuda:first");

        Assert.Equal(1, run.ExitCode);
        Assert.Contains("device 'cuda:first': expected cpu, cuda, cuda:N or auto", run.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(_folder.Path("merged")));
    }

    [Fact]
    public async Task What_is_no_model_is_told_what_it_is()
    {
        string file = _folder.Write("rows.jsonl", """{"text": "x"}""");
        string adapter = Directory.CreateDirectory(_folder.Path("adapter")).FullName;
        File.WriteAllText(Path.Combine(adapter, "adapter_config.json"), "{}");
        string empty = Directory.CreateDirectory(_folder.Path("empty")).FullName;
        string above = Path.GetDirectoryName(TrainingFolder.TinyBase)!;

        foreach ((string model, string expected) in ((string, string)[])
        [
            (file, "is a file that is no .gguf. Expected a Hugging Face model folder"),
            (adapter, "is an adapter, not a model. Give it as --adapter"),
            (empty, "has no config.json. Expected a Hugging Face model folder"),
            (above, $"has no config.json. Models lie in {TrainingFolder.TinyBase}"),
        ])
        {
            CommandRun run = await CommandRun.OfAsync("generate", "--model", model, "--prompt", "x");
            Assert.Equal(1, run.ExitCode);
            Assert.Contains(expected, run.Error, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task A_small_run_tells_its_rows_its_unfinished_warm_up_and_what_to_type_next()
    {
        string data = _folder.Write("rows.csv", "prompt,completion", "a,b", "c,d", "e,f");

        CommandRun run = await _folder.TrainAsync(data, "run", "training.warmup_steps=10");

        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains($"{data}: 3 rows, read as prompt_completion", run.Error, StringComparison.Ordinal);
        Assert.Contains("the warm-up of 10 steps is not over when the run's 3 are", run.Error, StringComparison.Ordinal);
        Assert.Contains($"lora generate --model {TrainingFolder.TinyBase} --adapter {_folder.Path("run")}", run.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_to_type_next_asks_as_the_rows_were_trained_and_finds_the_recipes_files()
    {
        _folder.Write("rows.jsonl", """{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}""");
        string recipe = _folder.Write("recipe.yaml", $"model: {TrainingFolder.TinyBase}", "data: { train: rows.jsonl }", "training: { max_steps: 1, batch_size: 1, gradient_accumulation: 1, warmup_steps: 0 }", "method: qlora", $"output: {_folder.Path("run")}");

        CommandRun run = await CommandRun.OfAsync("train", recipe, "--device", "cpu");

        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains($"Try it: lora generate --model {TrainingFolder.TinyBase} --adapter {_folder.Path("run")} --quantize nf4 --double-quant --chat --prompt", run.Output, StringComparison.Ordinal);
        Assert.Contains("--quantize nf4 --double-quant --chat --prompt", File.ReadAllText(Path.Combine(_folder.Path("run"), "README.md")), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Few_rows_by_the_defaults_are_told_how_to_make_more_steps_of_them()
    {
        _folder.Write("rows.jsonl", """{"text": "a b c d"}""", """{"text": "b c d e"}""");

        CommandRun run = await CommandRun.OfAsync("train", "--model", TrainingFolder.TinyBase, "--data", _folder.Path("rows.jsonl"), "--output", _folder.Path("run"), "--device", "cpu");

        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains("note: 3 steps are few to learn from, and 3 of them are warm-up. For so few rows: --gradient-accumulation 1 --epochs 20", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Rows_are_previewed_by_model_and_data_alone()
    {
        string data = _folder.Write("rows.jsonl", """{"text": "a b c d"}""");

        CommandRun run = await CommandRun.OfAsync("data", "preview", "--model", TrainingFolder.TinyBase, "--data", data);

        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains($"{data}: 1 rows, format text", run.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_setting_that_is_missing_is_told_what_belongs_there()
    {
        CommandRun run = await CommandRun.OfAsync("train", "--model", TrainingFolder.TinyBase, "--data", "rows.jsonl");

        Assert.Equal(1, run.ExitCode);
        Assert.Contains("output is missing, expected the run folder:", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_learning_rate_of_zero_trains_nothing_and_is_no_error()
    {
        string data = _folder.Write("rows.jsonl", """{"text": "a b c d"}""");

        CommandRun run = await _folder.TrainAsync(data, "run", "training.learning_rate=0", "training.batch_size=1");

        Assert.True(run.ExitCode == 0, run.Error);
        double[] losses = _folder.Metric("run", "loss");
        Assert.Equal(3, losses.Length);
        Assert.All(losses, loss => Assert.Equal(losses[0], loss));
    }
}
