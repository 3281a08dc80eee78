using LoraSharp.Formats.Safetensors;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Cli.Tests;

/// <summary><c>lora combine --models</c>, and what combining and loading adapters refuse.</summary>
public sealed class CombineCommandTests : IDisposable
{
    private const string Probe = "model.layers.0.self_attn.q_proj.weight";
    private static readonly string Llama = Fixtures.Path("models/llama");

    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [InlineData("linear", "0.6", "0.4")]
    [InlineData("slerp", "0.6", "0.4")]
    [InlineData("task-arithmetic", "0.6", "0.4")]
    [InlineData("ties", "1", "1")]
    [InlineData("dare-linear", "0.6", "0.4")]
    [InlineData("dare-ties", "1", "1")]
    public async Task Whole_models_are_combined_by_every_method(string method, string first, string second)
    {
        (string a, string b) = (await Tuned("combine/a"), await Tuned("combine/b"));
        string output = Path.Combine(_folder, "out");
        string[] more = method is "linear" or "slerp" ? [] : method == "task-arithmetic" ? ["--base", Llama] : ["--base", Llama, "--density", "1"];
        CommandRun run = await CommandRun.OfAsync(["combine", "--models", $"{a}={first}", $"{b}={second}", "--method", method, "--output", output, .. more]);
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        using var scope = NewDisposeScope();
        (Tensor w, Tensor wa, Tensor wb, Tensor found) = (Weight(Llama), Weight(a), Weight(b), Weight(output));
        (double p, double q) = (double.Parse(first, System.Globalization.CultureInfo.InvariantCulture), double.Parse(second, System.Globalization.CultureInfo.InvariantCulture));
        (Tensor da, Tensor db) = (wa - w, wb - w);
        // With density 1 nothing is pruned: TIES is then the mean of those that agree with the elected sign.
        Tensor elected = (da + db).ge(0).to(ScalarType.Float32) * 2 - 1;
        (Tensor ya, Tensor yb) = (da.sign().eq(elected).to(ScalarType.Float32), db.sign().eq(elected).to(ScalarType.Float32));
        Tensor expected = method switch
        {
            "linear" => (wa * p) + (wb * q),
            "slerp" => Slerp(wa, wb, q),
            "ties" or "dare-ties" => w + (((da * ya) + (db * yb)) / (ya + yb).clamp_min(1)),
            _ => w + (da * p) + (db * q),
        };
        Assert.InRange((found - expected).abs().max().item<float>(), 0, 2e-6f);
        Assert.True((found - w).abs().max().item<float>() > 1e-3);
    }

    [Theory]
    [InlineData("--density of 1.5", "combine --adapters {a} {b} --method ties --density 1.5", "found 1.5")]
    [InlineData("no density", "combine --adapters {a} {b} --method ties", "density")]
    [InlineData("weights", "combine --adapters {a}=heavy {b}", "found 'heavy'")]
    [InlineData("infinite", "combine --adapters {a}=inf {b}", "found 'inf'")]
    [InlineData("ranks", "combine --adapters {a} {wide}", "16")]
    [InlineData("structures", "combine --adapters {a} {gpt2} --method cat", "different bases: .* with model.layers.* with transformer.h")]
    [InlineData("method", "combine --adapters {a} {b} --method mash", "no method 'mash'")]
    [InlineData("dora", "combine --adapters {a} {dora} --method cat", "magnitudes")]
    [InlineData("rank", "combine --adapters {a} {b} --method svd --rank 0", "found 0")]
    [InlineData("both", "combine --adapters {a} --models {llama}", "either --adapters or --models")]
    [InlineData("base", "combine --models {llama} {llama} --method ties --density 0.5", "--base")]
    [InlineData("three", "combine --models {llama} {llama} {llama} --method slerp", "found 3")]
    [InlineData("other model", "combine --models {llama} {gpt2model}", "missing")]
    [InlineData("no config", "merge --model {llama} --adapter {empty}", "no adapter_config.json")]
    [InlineData("pickle", "merge --model {llama} --adapter {pickle}", "save_pretrained")]
    [InlineData("not there", "merge --model {llama} --adapter {empty}/nowhere", "no such folder|not")]
    [InlineData("other base", "merge --model {llama} --adapter {gpt2}", "transformer.h.0.attn.c_attn")]
    [InlineData("pickle inspected", "inspect {pickle} --plot", "adapter_model.bin")]
    public async Task Bad_input_is_one_error_with_what_was_found_and_nothing_is_written(string what, string line, string expected)
    {
        string empty = Directory.CreateDirectory(Path.Combine(_folder, "empty")).FullName;
        string pickle = Directory.CreateDirectory(Path.Combine(_folder, "pickle")).FullName;
        File.Copy(Fixtures.Path("combine/a/adapter_config.json"), Path.Combine(pickle, "adapter_config.json"));
        await File.WriteAllBytesAsync(Path.Combine(pickle, "adapter_model.bin"), [0x80, 2], TestContext.Current.CancellationToken);
        string output = Path.Combine(_folder, "out");
        var places = new Dictionary<string, string>
        {
            ["{a}"] = Fixtures.Path("combine/a"),
            ["{b}"] = Fixtures.Path("combine/b"),
            ["{wide}"] = Fixtures.Path("adapters/rslora"),
            ["{dora}"] = Fixtures.Path("adapters/dora"),
            ["{gpt2}"] = Fixtures.Path("adapters/gpt2_conv1d"),
            ["{gpt2model}"] = Fixtures.Path("models/gpt2"),
            ["{llama}"] = Llama,
            ["{empty}"] = empty,
            ["{pickle}"] = pickle,
        };
        string[] args = [.. line.Split(' ').Select(w => places.Aggregate(w, (word, place) => word.Replace(place.Key, place.Value, StringComparison.Ordinal)))];
        CommandRun run = await CommandRun.OfAsync([.. args, .. args[^1] == "--plot" ? [] : new[] { "--output" }, output]);
        Assert.True(run.ExitCode == 1, $"{what}: {run.ExitCode} {run.Error}");
        Assert.StartsWith("error: ", run.Error, StringComparison.Ordinal);
        Assert.Single(System.Text.RegularExpressions.Regex.Matches(run.Error, "^error: ", System.Text.RegularExpressions.RegexOptions.Multiline));
        Assert.Matches(expected.StartsWith('-') ? System.Text.RegularExpressions.Regex.Escape(expected) : expected, run.Error);
        Assert.False(Path.Exists(output));
    }

    private static Tensor Slerp(Tensor a, Tensor b, double position)
    {
        double cosine = ((a * b).sum() / (a.norm() * b.norm())).item<float>();
        if (Math.Abs(cosine) > 0.9995)
        {
            return (a * (1 - position)) + (b * position);
        }

        double angle = Math.Acos(cosine);
        return ((a * Math.Sin((1 - position) * angle)) + (b * Math.Sin(position * angle))) / Math.Sin(angle);
    }

    private static Tensor Weight(string model)
    {
        using SafetensorsCheckpoint file = SafetensorsCheckpoint.Open(model);
        using Tensor mapped = TensorBytes.ToTensor(file.Read(Probe), ScalarType.Float32, CPU);
        return mapped.clone();
    }

    private async Task<string> Tuned(string adapter)
    {
        string output = Path.Combine(_folder, Path.GetFileName(adapter));
        CommandRun run = await CommandRun.OfAsync("merge", "--model", Llama, "--adapter", Fixtures.Path(adapter), "--output", output, "--probe-tokens", "0");
        Assert.True(run.ExitCode == 0, run.Error);
        return output;
    }
}
