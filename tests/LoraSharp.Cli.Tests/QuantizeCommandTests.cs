using System.Diagnostics;
using System.Net.Http.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Cli.Tests;

/// <summary><c>lora quantize</c>, and <c>--quantize</c> at every command that loads a model.</summary>
public sealed class QuantizeCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [InlineData("nf4", 64, false, 0.5625)]
    [InlineData("nf4", 64, true, 0.51595)]
    [InlineData("fp4", 64, false, 0.5625)]
    [InlineData("nf4", 32, false, 0.625)]
    [InlineData("nf4", 128, false, 0.53125)]
    [InlineData("fp4", 4096, true, 0.5009)]
    public async Task Writes_a_checkpoint_of_the_stated_size_that_the_other_commands_open(string type, int block, bool twice, double bytes)
    {
        string output = Path.Combine(_folder, "q");
        string[] flags = twice ? ["--double-quant"] : [];
        JsonNode report = (await Json(["quantize", "--model", Fixtures.Path("nf4/base_bf16"), "--output", output, "--type", type, "--block-size", $"{block}", .. flags, "--json"]))["report"]!;
        Assert.Equal(14, (int)report["matrices"]!);
        Assert.Equal(bytes, (double)report["bytes"]! / (double)report["weights"]!, 1e-3);
        JsonNode config = JsonNode.Parse(await File.ReadAllTextAsync(Path.Combine(output, "config.json"), TestContext.Current.CancellationToken))!["quantization_config"]!;
        Assert.Equal((type, twice, true), ((string?)config["bnb_4bit_quant_type"], (bool)config["bnb_4bit_use_double_quant"]!, (bool)config["load_in_4bit"]!));
        float[] logits = await Logits(output);
        Assert.InRange(Away(logits, await Logits(Fixtures.Path("nf4/base_bf16"))), 1e-3, block > 128 ? 0.8 : 0.4);
    }

    [Fact]
    public async Task Skipped_layers_stay_and_are_named()
    {
        string output = Path.Combine(_folder, "q");
        CommandRun run = await CommandRun.OfAsync("quantize", "--model", Fixtures.Path("nf4/base_bf16"), "--output", output, "--skip", "down_proj", "layers.0");
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        Assert.Contains("6 matrices", run.Output, StringComparison.Ordinal);
        using SafetensorsFile file = SafetensorsFile.Open(Path.Combine(output, "model.safetensors"));
        Assert.Equal(Formats.ElementType.BF16, file.Tensors["model.layers.1.mlp.down_proj.weight"].Type);
        Assert.Equal(Formats.ElementType.BF16, file.Tensors["model.layers.0.mlp.up_proj.weight"].Type);
        Assert.Equal(Formats.ElementType.U8, file.Tensors["model.layers.1.mlp.up_proj.weight"].Type);
    }

    [Theory]
    [InlineData("--block-size", "48", "block size 48: expected a power of two from 32 to 4096")]
    [InlineData("--block-size", "8192", "block size 8192")]
    [InlineData("--skip", "model", "no linear layer is left to be quantised")]
    public async Task What_cannot_be_is_one_plain_error(string flag, string value, string expected)
    {
        CommandRun run = await CommandRun.OfAsync("quantize", "--model", Fixtures.Path("nf4/base_bf16"), "--output", Path.Combine(_folder, "q"), flag, value);
        Assert.Equal(1, run.ExitCode);
        Assert.StartsWith("error: ", run.Error, StringComparison.Ordinal);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder));
    }

    [Theory]
    [InlineData("loftq")]
    [InlineData("qpissa")]
    public async Task Starts_beside_the_base_report_how_much_nearer_they_are_and_train(string kind)
    {
        string output = Path.Combine(_folder, "q");
        JsonNode report = (await Json(["quantize", "--model", Fixtures.Path("nf4/base_bf16"), "--output", output, "--double-quant", "--init", kind, "--rank", "8", "--alpha", "16", "--json"]))["report"]!;
        Assert.True((double)report["error"]! < 0.95 * (double)report["plain_error"]!, report.ToJsonString());
        string adapter = (string)report["adapter_folder"]!;
        double near = Away(await Logits(output, "--adapter", adapter), await Logits(Fixtures.Path("nf4/base_bf16")));
        double plain = Away(await Logits(Fixtures.Path("nf4/base_bf16"), "--quantize", "nf4"), await Logits(Fixtures.Path("nf4/base_bf16")));
        Assert.True(near < plain, $"{near} is not nearer than {plain}");
        CommandRun run = await CommandRun.OfAsync("train", "--model", output, "--data", Rows(), "--init-from", adapter, "--output", Path.Combine(_folder, "run"), "--max-steps", "2", "--device", "cpu");
        Assert.True(run.ExitCode == 0, run.Error);
    }

    [Fact]
    public async Task Int8_checkpoints_are_read()
    {
        // LLM.int8: a byte a weight and a scale a row, made here from the dense model.
        string folder = Path.Combine(_folder, "int8");
        Directory.CreateDirectory(folder);
        string dense = Fixtures.Path("models/llama");
        using (SafetensorsFile file = SafetensorsFile.Open(Path.Combine(dense, "model.safetensors")))
        {
            SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), file.Tensors.Keys.SelectMany(n => n.Contains("_proj", StringComparison.Ordinal) ? Int8(file.Read(n)) : [TensorToWrite.From(file.Read(n))]));
        }

        JsonObject config = JsonNode.Parse(await File.ReadAllTextAsync(Path.Combine(dense, "config.json"), TestContext.Current.CancellationToken))!.AsObject();
        config["quantization_config"] = new JsonObject { ["quant_method"] = "bitsandbytes", ["load_in_8bit"] = true };
        await File.WriteAllTextAsync(Path.Combine(folder, "config.json"), config.ToJsonString(), TestContext.Current.CancellationToken);
        Assert.InRange(Away(await Logits(folder), await Logits(dense)), 1e-5, 0.05);
    }

    [Fact]
    public async Task Scales_are_quantised_where_asked_and_only_there()
    {
        string model = Fixtures.Path("nf4/base_bf16");
        string plain = Path.Combine(_folder, "plain"), twice = Path.Combine(_folder, "twice");
        await Json(["quantize", "--model", model, "--output", plain, "--json"]);
        await Json(["quantize", "--model", model, "--output", twice, "--double-quant", "--json"]);
        float[] once = await Logits(model, "--quantize", "nf4");
        float[] doubly = await Logits(model, "--quantize", "nf4", "--double-quant");
        Assert.Equal(await Logits(plain), once);
        Assert.Equal(await Logits(twice), doubly);
        Assert.NotEqual(once, doubly);
        CommandRun run = await CommandRun.OfAsync("generate", "--model", model, "--double-quant", "--prompt", "a");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("double quantisation: says how nf4 and fp4 keep their scales", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Merging_tells_that_an_adapter_was_trained_on_four_bits()
    {
        string model = Fixtures.Path("nf4/base_bf16"), adapter = Path.Combine(_folder, "run");
        CommandRun train = await CommandRun.OfAsync("train", "--model", model, "--data", Rows(), "--output", adapter, "--method", "qlora", "--max-steps", "2", "--device", "cpu");
        Assert.True(train.ExitCode == 0, train.Error);
        Assert.Contains("--quantize nf4 --double-quant", train.Output, StringComparison.Ordinal);
        JsonNode dense = await Json(["merge", "--model", model, "--adapter", adapter, "--output", Path.Combine(_folder, "dense"), "--json"]);
        Assert.Contains("was trained on a base in 4 bits and is merged into the base as it is stored", dense["notes"]!.ToJsonString(), StringComparison.Ordinal);
        JsonNode rounded = await Json(["merge", "--model", model, "--adapter", adapter, "--quantize", "nf4", "--double-quant", "--output", Path.Combine(_folder, "rounded"), "--json"]);
        Assert.DoesNotContain("as it is stored", rounded["notes"]!.ToJsonString(), StringComparison.Ordinal);
    }

    /// <summary>Train, measure, ask, merge and serve, all on a base that is rounded to 4 bits while it loads.</summary>
    [Theory]
    [InlineData("nf4")]
    [InlineData("fp4")]
    public async Task Every_command_takes_a_base_in_four_bits(string type)
    {
        string model = Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");
        string rows = Path.Combine(_folder, "rows.jsonl");
        await File.WriteAllLinesAsync(rows, Enumerable.Range(0, 12).Select(i => $$"""{"prompt": "colour {{i}}:", "completion": " blue"}"""), TestContext.Current.CancellationToken);
        string adapter = Path.Combine(_folder, "run");
        CommandRun train = await CommandRun.OfAsync("train", "--model", model, "--data", rows, "--output", adapter, "--quantize", type, "--max-steps", "4", "--rank", "4", "--learning-rate", "1e-2", "--device", "cpu");
        Assert.True(train.ExitCode == 0, train.Error);
        // As method: qlora trains by default.
        string[] rounded = ["--quantize", type, "--double-quant"];
        string[] common = ["--model", model, .. rounded, "--device", "cpu", "--json"];
        double plain = (double)(await Json(["eval", .. common, "--data", rows]))["loss"]!;
        double tuned = (double)(await Json(["eval", .. common, "--data", rows, "--adapter", adapter]))["loss"]!;
        Assert.True(tuned < plain, $"{tuned} is not less than {plain}");
        JsonNode text = await Json(["generate", .. common, "--adapter", adapter, "--prompt", "colour 3:", "--max-tokens", "8", "--temperature", "0", "--ignore-eos"]);
        Assert.Equal(8, text["token_ids"]!.AsArray().Count);

        // Merged, the rounded base and its adapter give the same logits, and the report says that 4 bits are no more.
        string merged = Path.Combine(_folder, "merged");
        JsonNode merge = await Json(["merge", "--model", model, "--adapter", adapter, .. rounded, "--output", merged, "--dtype", "float32", "--json"]);
        Assert.InRange((double)merge["probe"]!["max_logit_difference"]!, 0, 1e-3);
        Assert.Contains("no longer 4-bit", merge["notes"]!.ToJsonString(), StringComparison.Ordinal);
        float[] together = await Logits(model, [.. rounded, "--adapter", adapter]);
        Assert.InRange(Away(await Logits(merged), together), 0, 1e-4);
        Assert.True(Away(await Logits(model, "--adapter", adapter), together) > 1e-2);

        // In 4 bits again, what that costs is measured.
        JsonNode again = await Json(["quantize", "--model", model, "--adapter", adapter, "--type", type, "--output", Path.Combine(_folder, "again"), "--json"]);
        Assert.True((double)again["probe"]!["max_logit_difference"]! > 0);
        Assert.True((double)again["report"]!["error"]! > 0);

        await Serves(["serve", "--model", model, "--adapter", $"colours={adapter}", .. rounded, "--device", "cpu", "--port", "0"], (int[])[.. text["token_ids"]!.AsArray().Select(n => (int)n!)], (string)text["text"]!);
    }

    [Fact]
    public async Task Every_command_takes_a_gguf_file()
    {
        string model = Path.Combine(_folder, "tiny.gguf");
        await Json(["export", "--model", Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base"), "--output", model, "--type", "q8_0", "--json"]);
        string rows = Path.Combine(_folder, "rows.jsonl");
        await File.WriteAllLinesAsync(rows, Enumerable.Range(0, 12).Select(i => $$"""{"prompt": "colour {{i}}:", "completion": " blue"}"""), TestContext.Current.CancellationToken);
        string adapter = Path.Combine(_folder, "run");
        CommandRun train = await CommandRun.OfAsync("train", "--model", model, "--data", rows, "--output", adapter, "--max-steps", "4", "--rank", "4", "--learning-rate", "1e-2", "--device", "cpu");
        Assert.True(train.ExitCode == 0, train.Error);
        string[] common = ["--model", model, "--device", "cpu", "--json"];
        Assert.True((double)(await Json(["eval", .. common, "--data", rows, "--adapter", adapter]))["loss"]! < (double)(await Json(["eval", .. common, "--data", rows]))["loss"]!);
        JsonNode text = await Json(["generate", .. common, "--adapter", adapter, "--prompt", "colour 3:", "--max-tokens", "8", "--temperature", "0", "--ignore-eos"]);
        JsonNode merge = await Json(["merge", "--model", model, "--adapter", adapter, "--output", Path.Combine(_folder, "merged"), "--json"]);
        Assert.InRange((double)merge["probe"]!["max_logit_difference"]!, 0, 1e-3);
        await Json(["export", "--model", model, "--adapter", adapter, "--adapter-only", "--output", Path.Combine(_folder, "a.gguf"), "--type", "f32", "--json"]);
        JsonNode same = await Json(["generate", .. common, "--adapter", Path.Combine(_folder, "a.gguf"), "--prompt", "colour 3:", "--max-tokens", "8", "--temperature", "0", "--ignore-eos"]);
        Assert.Equal((string?)text["text"], (string?)same["text"]);
        await Json(["quantize", "--model", model, "--output", Path.Combine(_folder, "nf4"), "--json"]);
        foreach (string[] command in (string[][])[["inspect", model, "--json"], ["tokenize", "--model", model, "--input", Texts(), "--output", Path.Combine(_folder, "t.jsonl")]])
        {
            CommandRun run = await CommandRun.OfAsync(command);
            Assert.True(run.ExitCode == 0, $"{command[0]}: {run.Error}");
        }

        await Serves(["serve", "--model", model, "--adapter", $"colours={adapter}", "--device", "cpu", "--port", "0"], (int[])[.. text["token_ids"]!.AsArray().Select(n => (int)n!)], (string)text["text"]!);
    }

    private static async Task Serves(string[] args, int[] ids, string text)
    {
        var start = new ProcessStartInfo("dotnet") { RedirectStandardOutput = true };
        start.ArgumentList.Add(Path.Combine(AppContext.BaseDirectory, "lora.dll"));
        Array.ForEach(args, start.ArgumentList.Add);
        using Process server = Process.Start(start)!;
        try
        {
            string line = string.Empty;
            while (!line.StartsWith("Serving ", StringComparison.Ordinal))
            {
                line = await server.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken) ?? throw new InvalidOperationException("The server ended before it was ready.");
            }

            using var client = new HttpClient { BaseAddress = new Uri(line[(line.IndexOf("http", StringComparison.Ordinal))..].Split(' ')[0]) };
            using HttpResponseMessage response = await client.PostAsJsonAsync("/v1/completions", new { model = "colours", prompt = "colour 3:", max_tokens = ids.Length, temperature = 0, ignore_eos = true }, TestContext.Current.CancellationToken);
            JsonNode answer = (await response.Content.ReadFromJsonAsync<JsonNode>(TestContext.Current.CancellationToken))!;
            Assert.True(response.IsSuccessStatusCode, answer.ToJsonString());
            Assert.Equal(text, (string?)answer["choices"]![0]!["text"]);
        }
        finally
        {
            server.Kill(entireProcessTree: true);
            await server.WaitForExitAsync(CancellationToken.None);
        }
    }

    private static IEnumerable<TensorToWrite> Int8(Formats.TensorData data)
    {
        float[] values = System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(data.Slice(0, (int)data.Info.ByteCount)).ToArray();
        int columns = (int)data.Info.Shape[1];
        float[] scales = [.. values.Chunk(columns).Select(row => row.Max(Math.Abs))];
        byte[] codes = [.. values.Select((v, i) => (byte)(sbyte)MathF.Round(127 * v / scales[i / columns]))];
        yield return new(data.Info with { Type = Formats.ElementType.I8 }, s => s.Write(codes));
        yield return new(new(data.Info.Name[..^"weight".Length] + "SCB", Formats.ElementType.F32, [scales.Length]), s => s.Write(System.Runtime.InteropServices.MemoryMarshal.AsBytes<float>(scales)));
    }

    private string Rows()
    {
        string rows = Path.Combine(_folder, "ids.jsonl");
        File.WriteAllLines(rows, Enumerable.Range(0, 8).Select(i => $$"""{"input_ids": [5, {{i + 6}}, 7, 8, 9]}"""));
        return rows;
    }

    private string Texts()
    {
        string texts = Path.Combine(_folder, "texts.jsonl");
        File.WriteAllLines(texts, ["""{"text": "a blue house"}"""]);
        return texts;
    }

    private async Task<float[]> Logits(string model, params string[] more)
    {
        string input = Path.Combine(_folder, "ids.safetensors");
        string output = Path.Combine(_folder, $"{Guid.NewGuid():N}.safetensors");
        long[] ids = [.. Enumerable.Range(3, 24).Select(i => (long)i)];
        SafetensorsWriter.Write(input, [new(new("input_ids", Formats.ElementType.I64, [2, 12]), s => s.Write(System.Runtime.InteropServices.MemoryMarshal.AsBytes<long>(ids)))]);
        CommandRun run = await CommandRun.OfAsync(["logits", "--model", model, "--input", input, "--output", output, "--device", "cpu", .. more]);
        Assert.True(run.ExitCode == 0, run.Error);
        using SafetensorsFile file = SafetensorsFile.Open(output);
        Formats.TensorData data = file.Read("logits");
        return System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(data.Slice(0, (int)data.Info.ByteCount)).ToArray();
    }

    /// <summary>‖a − b‖ / ‖b‖.</summary>
    private static double Away(float[] a, float[] b) =>
        Math.Sqrt(a.Zip(b, (x, y) => Math.Pow(x - y, 2)).Sum() / b.Sum(y => (double)y * y));

    private static async Task<JsonNode> Json(string[] args)
    {
        CommandRun run = await CommandRun.OfAsync(args);
        Assert.True(run.ExitCode == 0, $"{args[0]}: {run.Error}");
        return JsonNode.Parse(run.Output)!;
    }
}
