using System.Diagnostics;
using LoraSharp.Training;
using LoraSharp.Training.Checkpoints;

namespace LoraSharp.Tests.Training;

/// <summary>Kills a training process at random moments; what comes out must be what an undisturbed run gives.</summary>
public sealed class KillTests
{
    private const string FolderVariable = "LORASHARP_KILL_CHILD";
    private const string CountVariable = "LORASHARP_KILLS";

    [Fact]
    public async Task KilledAtAnyMomentItEndsBitEqual()
    {
        Assert.SkipWhen(Environment.GetEnvironmentVariable(FolderVariable) is not null, "this is the process to be killed");
        int kills = int.TryParse(Environment.GetEnvironmentVariable(CountVariable), out int wanted) ? wanted : 3;
        string folder = Directory.CreateTempSubdirectory("kill").FullName;
        try
        {
            await RunAsync(Path.Combine(folder, "whole"), null);
            Random random = new(5);
            string broken = Path.Combine(folder, "broken");
            int killed = 0;
            for (int i = 0; i < kills * 4 && killed < kills; i++)
            {
                // The clock starts with the first step: any time before is only start-up.
                killed += await RunAsync(broken, TimeSpan.FromMilliseconds(random.Next(0, 120))) ? 1 : 0;
                if (File.Exists(Path.Combine(broken, "weights")))
                {
                    Compare(folder);
                    Directory.Delete(broken, recursive: true);
                }
            }

            await RunAsync(broken, null);
            Assert.True(killed > 0);
            Compare(folder);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>The process that is killed; does nothing when run as a test.</summary>
    [Fact]
    public void Child()
    {
        string? folder = Environment.GetEnvironmentVariable(FolderVariable);
        Assert.SkipWhen(folder is null, "runs only as the child of the kill test");
        using var model = new ToyModel(dropout: 0.3);
        using var metrics = new MetricsFile(Path.Combine(folder!, "metrics.jsonl"));
        using var trainer = new Trainer(
            new TrainingSetup
            {
                Objective = model,
                Trainable = model.Parameters,
                Batches = new ToyBatches(2, 2),
                Validation = () => [ToyBatches.Batch(1)],
                Checkpoints = new CheckpointStore(Path.Combine(folder!, "checkpoints"), 2),
                Observers = [metrics, new Started(Path.Combine(folder!, "started"))],
            },
            new TrainerOptions { MaxSteps = 40, LearningRate = 0.05, SaveInterval = 1, EvalInterval = 7, EmaDecay = 0.9 });
        trainer.Run(TestContext.Current.CancellationToken);
        File.WriteAllBytes(Path.Combine(folder!, "weights"), [.. model.Values().SelectMany(BitConverter.GetBytes)]);
    }

    private static void Compare(string folder)
    {
        Assert.Equal(File.ReadAllBytes(Path.Combine(folder, "whole", "weights")), File.ReadAllBytes(Path.Combine(folder, "broken", "weights")));
        Assert.Equal(Lines("whole"), Lines("broken"));
        string last = Path.Combine("checkpoints", "step-00000040", "optimizer.safetensors");
        Assert.Equal(File.ReadAllBytes(Path.Combine(folder, "whole", last)), File.ReadAllBytes(Path.Combine(folder, "broken", last)));

        // All but the speed.
        string[] Lines(string name) => [.. File.ReadAllLines(Path.Combine(folder, name, "metrics.jsonl"))
            .Select(l => System.Text.RegularExpressions.Regex.Replace(l, "\"tokens_per_second\":[^,]*,", string.Empty))];
    }

    /// <returns>Whether it was killed before it was done.</returns>
    private static async Task<bool> RunAsync(string folder, TimeSpan? life)
    {
        Directory.CreateDirectory(folder);
        string started = Path.Combine(folder, "started");
        File.Delete(started);
        ProcessStartInfo start = new(Path.Combine(AppContext.BaseDirectory, "LoraSharp.Tests" + (OperatingSystem.IsWindows() ? ".exe" : string.Empty)))
        {
            ArgumentList = { "-method", $"{typeof(KillTests).FullName}.{nameof(Child)}" },
            RedirectStandardOutput = true,
            Environment = { [FolderVariable] = folder, ["OMP_NUM_THREADS"] = "1" },
        };
        using Process process = Process.Start(start)!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        if (life is { } time)
        {
            while (!File.Exists(started) && !process.HasExited)
            {
                await Task.Delay(2, TestContext.Current.CancellationToken);
            }

            await Task.Delay(time, TestContext.Current.CancellationToken);
            bool running = !process.HasExited;
            process.Kill();
            await process.WaitForExitAsync(TestContext.Current.CancellationToken);
            return running;
        }

        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(process.ExitCode == 0, await output);
        return false;
    }

    private sealed class Started(string path) : ITrainingObserver
    {
        public void On(TrainingEvent happened)
        {
            if (happened is TrainingStarted)
            {
                File.WriteAllText(path, "started");
            }
        }
    }
}
