using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Training;
using LoraSharp.Training.Checkpoints;

namespace LoraSharp.Tests.Training;

public sealed class CheckpointStoreTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("checkpoints").FullName;

    [Fact]
    public void KeepsTheNewestAndTheBest()
    {
        var store = new CheckpointStore(_folder, 2);
        for (long step = 1; step <= 5; step++)
        {
            store.Save(State(step) with { BestStep = 2, BestLoss = 0.5 }, f => File.WriteAllText(Path.Combine(f, "x"), "content"));
        }

        Assert.Equal([5, 4, 2], store.Steps);
        (string folder, TrainingState state) = store.FindLatest()!.Value;
        Assert.Equal(store.PathOf(5), folder);
        Assert.Equal(5, state.Step);
        Assert.Equal(0.5, state.BestLoss);
        Assert.Equal(7, (int)state.Data["cursor"]!);
        Assert.Equal(1.25, state.RecentLosses[0]);
    }

    [Theory]
    [InlineData("x", "contend")]
    [InlineData("x", "conten")]
    [InlineData("x", null)]
    [InlineData("state.json", "{")]
    [InlineData("state.json", "{}")]
    [InlineData("state.json", null)]
    public void ABrokenOneIsSkippedForTheOneBefore(string file, string? content)
    {
        var store = new CheckpointStore(_folder, 3);
        store.Save(State(1), f => File.WriteAllText(Path.Combine(f, "x"), "content"));
        string broken = store.Save(State(2), f => File.WriteAllText(Path.Combine(f, "x"), "content"));
        File.Delete(Path.Combine(broken, file));
        if (content is not null)
        {
            File.WriteAllText(Path.Combine(broken, file), content);
        }

        List<CheckpointSkipped> skipped = [];
        Assert.Equal(1, store.FindLatest(skipped.Add)!.Value.State.Step);
        Assert.Equal(broken, Assert.Single(skipped).Folder);
        Assert.Contains(file, skipped[0].Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void AFailureLeavesNothingBehind()
    {
        var store = new CheckpointStore(_folder, 1);
        store.Save(State(1), f => File.WriteAllText(Path.Combine(f, "x"), "content"));
        Assert.Throws<LoraSharpException>(() => store.Save(State(2), _ => throw new IOException("No space left on device")));
        Assert.Equal([Path.GetFileName(store.PathOf(1))], Directory.EnumerateFileSystemEntries(_folder).Select(Path.GetFileName));
    }

    [Fact]
    public void WhatAKilledRunLeftIsClearedAway()
    {
        Directory.CreateDirectory(Path.Combine(_folder, ".step-00000003.abc.tmp"));
        Assert.Empty(new CheckpointStore(_folder, 1).Steps);
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder));
    }

    [Fact]
    public void DifferencesOfSettingsAreListed()
    {
        JsonObject then = new() { ["training"] = new JsonObject { ["learning_rate"] = 0.001, ["seed"] = 1 } };
        JsonObject now = new() { ["training"] = new JsonObject { ["learning_rate"] = 0.002, ["seed"] = 1 }, ["model"] = "m" };
        Assert.Equal(
            ["model: (not set) in the checkpoint, \"m\" now", "training.learning_rate: 0.001 in the checkpoint, 0.002 now"],
            CheckpointStore.Differences(then, now));
    }

    [Fact]
    public void MetricsGoBackToTheCheckpointsStep()
    {
        string path = Path.Combine(_folder, "metrics.jsonl");
        using (var metrics = new MetricsFile(path))
        {
            metrics.On(new TrainingStarted(0, 3, 10, null));
            metrics.On(Completed(1));
            metrics.On(new Evaluated(1, 2.0, true, new Dictionary<string, double> { ["accuracy"] = 0.5 }) { IsLikelihood = true });
            metrics.On(Completed(2));
        }

        File.AppendAllText(path, "{\"step\": 3, \"lo");
        using (var metrics = new MetricsFile(path))
        {
            metrics.On(new TrainingStarted(1, 3, 10, "checkpoint") { EvaluatedStep = 1 });
        }

        string[] lines = File.ReadAllLines(path);
        Assert.Equal(2, lines.Length);
        Assert.Equal("""{"step":1,"loss":0.5,"grad_norm":null,"learning_rate":0.001,"tokens":12,"tokens_per_second":100.1,"epoch":0.25}""", lines[0]);
        Assert.Equal("""{"step":1,"eval_loss":2,"eval_perplexity":7.38905609893065,"eval_accuracy":0.5}""", lines[1]);

        // A checkpoint from before the evaluation: it is made once more.
        using (var metrics = new MetricsFile(path))
        {
            metrics.On(new TrainingStarted(1, 3, 10, "checkpoint"));
        }

        Assert.Equal(lines[..1], File.ReadAllLines(path));
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static StepCompleted Completed(long step) => new(step)
    {
        TotalSteps = 3,
        Loss = 0.5,
        GradNorm = double.NaN,
        LearningRate = 1e-3,
        Tokens = 12,
        TokensPerSecond = 100.123,
        Epoch = 0.25,
        Remaining = TimeSpan.Zero,
    };

    private static TrainingState State(long step) => new()
    {
        Step = step,
        TotalSteps = 10,
        Data = new JsonObject { ["cursor"] = 7 },
        RecentLosses = [1.25, double.NaN],
    };
}
