using System.Text.Json.Nodes;

namespace LoraSharp.Cli.Tests;

/// <summary>A folder with rows, recipes and runs for tests of <c>lora train</c> on the embedded model.</summary>
internal sealed class TrainingFolder : IDisposable
{
    /// <summary>The embedded model.</summary>
    public static string TinyBase { get; } = System.IO.Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    private readonly string _path = Directory.CreateTempSubdirectory("lorasharp-train-").FullName;

    public string Path(string name) => System.IO.Path.Combine(_path, name);

    /// <summary>Writes a file; its path.</summary>
    public string Write(string name, params string[] lines)
    {
        File.WriteAllLines(Path(name), lines);
        return Path(name);
    }

    /// <summary>Runs <c>lora train</c> with small settings, on one data file.</summary>
    public Task<CommandRun> TrainAsync(string data, string output, params string[] settings) => CommandRun.OfAsync(Arguments(data, output, settings));

    /// <summary>The arguments of such a run.</summary>
    public string[] Arguments(string data, string output, params string[] settings) =>
    [
        "train", "--model", TinyBase, "--device", "cpu", "--output", Path(output), "--rank", "4", "--max-steps", "3", "--batch-size", "2", "--gradient-accumulation", "1",
        "--max-length", "64", "--warmup-steps", "0", "--learning-rate", "5e-3", "--set", "training.schedule=constant", $"data.train={data}", .. settings,
    ];

    /// <summary>A metric of each step of a run.</summary>
    public double[] Metric(string output, string name) =>
        [.. File.ReadLines(System.IO.Path.Combine(Path(output), "metrics.jsonl")).Select(l => JsonNode.Parse(l)![name]).OfType<JsonNode>().Select(v => (double)v)];

    public void Dispose() => Directory.Delete(_path, recursive: true);
}
