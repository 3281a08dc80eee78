using System.IO.Compression;
using System.Text;
using System.Text.Json.Nodes;

namespace LoraSharp.Cli.Tests;

/// <summary>Every shape of rows through <c>lora data preview</c> and <c>lora train</c>.</summary>
public sealed class TrainFormatTests : IDisposable
{
    private readonly TrainingFolder _folder = new();

    public static TheoryData<string, string, string> Shapes => new()
    {
        { "chat", "rows.jsonl", """{"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello number #."}]}""" },
        { "chat", "rows.jsonl", """{"conversations": [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello number #."}]}""" },
        { "chat", "rows.jsonl", """{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No.", "train": false}, {"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello number #.", "weight": 0.5}]}""" },
        { "alpaca", "rows.csv", "instruction,input,output\n\"Say, hello\",,Hello number #." },
        { "prompt_completion", "rows.jsonl.gz", """{"prompt": "Say hello: ", "completion": "Hello number #."}""" },
        { "text", "rows.txt", "Hello number #, said as running text." },
        { "preference", "rows.jsonl", """{"prompt": "Say hello: ", "chosen": "Hello number #.", "rejected": "Go away."}""" },
        { "preference", "rows.jsonl", """{"chosen": [{"role": "user", "content": "Say hello"}, {"role": "assistant", "content": "Hello number #."}], "rejected": [{"role": "user", "content": "Say hello"}, {"role": "assistant", "content": "Go away."}]}""" },
        { "preference", "rows.jsonl", """{"conversations": [{"from": "human", "value": "Say hello"}], "chosen": {"from": "gpt", "value": "Hello number #."}, "rejected": {"from": "gpt", "value": "Go away."}}""" },
        { "kto", "rows.jsonl", """{"prompt": "Say hello: ", "completion": "Hello number #.", "label": true}""" },
        { "tokenized", "rows.jsonl", """{"input_ids": [5, 6, 7, 8#], "labels": [-100, 6, 7, 8#], "attention_mask": [1, 1, 1, 1]}""" },
    };

    public void Dispose() => _folder.Dispose();

    [Theory]
    [MemberData(nameof(Shapes))]
    public async Task A_shape_is_found_shown_and_trained_on(string format, string name, string row)
    {
        string data = _folder.Path(name);
        string[] lines = row.Split('\n') is [var head, var only] ? [head, .. Numbered(only)] : Numbered(row);
        byte[] bytes = Encoding.UTF8.GetBytes(string.Join('\n', lines));
        using (Stream file = File.Create(data))
        using (Stream stream = name.EndsWith(".gz", StringComparison.Ordinal) ? new GZipStream(file, CompressionLevel.Fastest) : file)
        {
            stream.Write(bytes);
        }

        CommandRun preview = await CommandRun.OfAsync("data", "preview", "--json", "--set", $"model={TrainingFolder.TinyBase}", $"data.train={data}");
        Assert.Equal((0, string.Empty), (preview.ExitCode, preview.Error));
        JsonNode shown = JsonNode.Parse(preview.Output)!;
        Assert.Equal(format, (string)shown["sources"]![0]!["format"]!);
        Assert.Equal(6, (int)shown["rows_read"]!);
        Assert.Equal(format == "preference" ? 12 : 6, (int)shown["train"]!["examples"]!);

        CommandRun run = await _folder.TrainAsync(data, "run");
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.All(_folder.Metric("run", "loss"), l => Assert.True(double.IsFinite(l)));
        Assert.Equal(3, _folder.Metric("run", "loss").Length);
        Assert.True(File.Exists(Path.Combine(_folder.Path("run"), "adapter_model.safetensors")));
    }

    [Fact]
    public async Task Columns_templates_and_weights_of_several_sources()
    {
        string first = _folder.Write("a.jsonl", [.. Numbered("""{"question": "Which number?", "answer": "#"}""")]);
        string second = _folder.Write("b.jsonl", [.. Numbered("""{"ask": "Say #", "reply": "so #"}""")]);
        string recipe = _folder.Write(
            "recipe.yaml",
            $"model: {TrainingFolder.TinyBase}",
            "data:",
            "  train:",
            $"    - {{ path: {first}, weight: 2, columns: {{ prompt: question, completion: answer }} }}",
            $"    - {{ path: {second}, weight: 0.5, max_samples: 4, columns: {{ prompt: ask, completion: reply }} }}",
            "  max_length: 64",
            $"output: {_folder.Path("run")}",
            "training: { epochs: 1, batch_size: 7, gradient_accumulation: 1, warmup_steps: 0 }");
        CommandRun run = await CommandRun.OfAsync("train", recipe);
        Assert.True(run.ExitCode == 0, run.Error);
        // Twice 6 rows and half of 4 in an epoch, seven a step.
        Assert.Equal(2, _folder.Metric("run", "loss").Length);

        CommandRun templated = await CommandRun.OfAsync(
            "data", "preview", "--set", $"model={TrainingFolder.TinyBase}", $"data.train={first}", "data.prompt_template=Q: {question} A:", "data.completion_template= It is {answer}!");
        Assert.Contains("Q: Which number? A:⟦ It is 0!", templated.Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("formats/alpaca_en_demo.json.gz")]
    [InlineData("formats/dpo_en_demo.json.gz")]
    [InlineData("formats/glaive_toolcall_en_demo.json.gz")]
    [InlineData("instruct1100/preference.jsonl.gz")]
    [InlineData("snips/test.jsonl.gz")]
    [InlineData("pretrain/books.txt.xz")]
    public async Task Published_sets_train(string file)
    {
        CommandRun run = await _folder.TrainAsync(Fixtures.ReferenceOrSkip("data/" + file), "run", "data.max_samples=30", "data.long_rows=cut");
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Equal(3, _folder.Metric("run", "loss").Length);
    }

    private static string[] Numbered(string row) => [.. Enumerable.Range(0, 6).Select(i => row.Contains("8#", StringComparison.Ordinal) ? row.Replace("8#", $"{8 + i}") : row.Replace("#", $"{i}"))];
}
