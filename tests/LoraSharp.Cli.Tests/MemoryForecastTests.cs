using System.Diagnostics;
using System.Text.Json.Nodes;
using LoraSharp.Adapters;
using LoraSharp.Quantization;
using TorchSharp;

namespace LoraSharp.Cli.Tests;

/// <summary><c>lora doctor --recipe</c> against what <c>lora train</c> then takes, each run in a process of its own.</summary>
public sealed class MemoryForecastTests : IDisposable
{
    // What the command promises; docs/benchmarks/memory.md has the table for a real model.
    private const double Tolerance = 0.10;
    private readonly TrainingFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("lora", "float32", "off", "adamw")]
    [InlineData("lora", "float32", "on", "adamw")]
    [InlineData("lora", "bfloat16", "off", "adamw")]
    [InlineData("qlora", "float32", "off", "adamw8bit")]
    [InlineData("full", "float32", "off", "adamw")]
    public async Task The_peak_is_within_a_tenth_of_what_was_predicted(string method, string dtype, string checkpointing, string optimizer)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "resident memory is counted otherwise elsewhere");
        int[] ids = [.. Enumerable.Range(0, 512).Select(i => 5 + (i * 37 % 4000))];
        string data = _folder.Write("rows.jsonl", [.. Enumerable.Range(0, 8).Select(i => new JsonObject { ["input_ids"] = new JsonArray([.. ids.Select(id => (JsonNode)(5 + ((id + (i * 11)) % 4000)))]) }.ToJsonString())]);
        string recipe = _folder.Write(
            "recipe.yaml",
            $"model: {TrainingFolder.TinyBase}",
            $"method: {method}",
            $"dtype: {dtype}",
            "device: cpu",
            "adapter: { rank: 8 }",
            $"data: {{ train: {data}, max_length: 512 }}",
            $"training: {{ max_steps: 2, batch_size: 8, gradient_accumulation: 1, warmup_steps: 0, optimizer: {optimizer}, gradient_checkpointing: {checkpointing} }}",
            $"output: {_folder.Path("run")}");

        CommandRun doctor = await CommandRun.OfAsync("doctor", "--recipe", recipe, "--json");
        JsonNode memory = JsonNode.Parse(doctor.Output)!["memory"]!;
        Assert.Equal((8, 512), ((int)memory["rows"]!, (int)memory["length"]!));
        double predicted = (double)memory["total"]!;
        double measured = await PeakAsync(recipe);
        TestContext.Current.TestOutputHelper?.WriteLine($"{method} {dtype} checkpointing {checkpointing} {optimizer}: predicted {predicted / 1e6:0} MB, measured {measured / 1e6:0} MB ({(predicted / measured) - 1:+0.0%;-0.0%})");
        Assert.InRange(predicted / measured, 1 - Tolerance, 1 + Tolerance);
    }

    /// <summary>What a checkpoint holds in few bits stays so, and what is skipped does not: against the tensors of the loaded model.</summary>
    [Theory]
    [InlineData("gguf/tiny-q8_0.gguf", "lora", "")]
    [InlineData("gguf/tiny-q4_0.gguf", "lora", "")]
    [InlineData("gguf/tiny-q4_0.gguf", "qlora", "quantization: { type: nf4, double: false }")]
    [InlineData("nf4/bnb_nf4_double", "lora", "")]
    [InlineData("nf4/base_bf16", "qlora", "quantization: { type: nf4, block_size: 128, skip_modules: [down_proj] }")]
    public async Task The_base_takes_what_its_tensors_take(string model, string method, string quantization)
    {
        string data = _folder.Write("ids.jsonl", """{"input_ids": [3, 4, 5, 6]}""");
        string recipe = _folder.Write("base.yaml", $"model: {Fixtures.Path(model)}", $"method: {method}", "device: cpu", quantization, $"data: {{ train: {data} }}", $"output: {_folder.Path("run")}");
        CommandRun doctor = await CommandRun.OfAsync("doctor", "--recipe", recipe, "--json");
        long predicted = (long)JsonNode.Parse(doctor.Output)!["memory"]!["base"]!;

        QuantizationOptions? options = method == "lora" ? null : quantization.Contains("down_proj", StringComparison.Ordinal)
            ? new QuantizationOptions { BlockSize = 128, SkipModules = ["down_proj"] }
            : new QuantizationOptions { DoubleQuantization = false };
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Fixtures.Path(model), Device = "cpu", Quantization = options });
        using var scope = torch.NewDisposeScope();
        long held = loaded.Model.Parameters.Sum(t => t.Value.NumberOfElements * t.Value.ElementSize);
        long buffer = sizeof(float) * loaded.Model.Linears.Where(l => l is LoraLinear { Inner: QuantizedLinear } && l.Spec.Name != "lm_head").Max(l => (long)l.Spec.InFeatures * l.Spec.OutFeatures);
        Assert.Equal(held + buffer, predicted);
    }

    private static async Task<double> PeakAsync(string recipe)
    {
        ProcessStartInfo start = new(Path.Combine(AppContext.BaseDirectory, "lora"), ["train", recipe, "--json"]) { RedirectStandardOutput = true, RedirectStandardError = true };
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        string output = await process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(process.ExitCode == 0, await errors);
        return (double)JsonNode.Parse(output)!["peak_memory"]!;
    }
}
