using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;

namespace LoraSharp.Cli.Tests;

/// <summary>
/// Kills <c>lora train</c> at random moments and starts it again: adapter, metrics and optimizer state must be bit for bit those of
/// a run that was left alone. With everything that has a state: packing, dropout, NEFTune, accumulation, EMA, validation.
/// <c>LORASHARP_KILLS=50</c> makes it the long test.
/// </summary>
public sealed partial class TrainKillTests : IDisposable
{
    private const int Steps = 40;
    private readonly TrainingFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("adamw")]
    [InlineData("adamw8bit")]
    [InlineData("muon")]
    public async Task Killed_at_any_moment_it_ends_bit_equal(string optimizer)
    {
        int kills = int.TryParse(Environment.GetEnvironmentVariable("LORASHARP_KILLS"), NumberStyles.Integer, CultureInfo.InvariantCulture, out int wanted) ? wanted : 1;
        string data = _folder.Write("rows.jsonl", [.. Enumerable.Range(0, 30).Select(i => $$"""{"text": "{{string.Join(' ', Enumerable.Range(i, 2 + (i % 5)))}}"}""")]);
        Assert.True(await RunAsync(optimizer, data, "whole", null) is false);
        Random random = new(5);
        int killed = 0, finished = 0;
        for (int i = 0; i < kills * 4 && killed < kills; i++)
        {
            killed += await RunAsync(optimizer, data, "broken", random) ? 1 : 0;
            if (File.Exists(Path.Combine(_folder.Path("broken"), ".complete")))
            {
                finished++;
                Compare();
                Directory.Delete(_folder.Path("broken"), recursive: true);
            }
        }

        if (!File.Exists(Path.Combine(_folder.Path("broken"), ".complete")))
        {
            Assert.False(await RunAsync(optimizer, data, "broken", null));
            finished++;
        }

        Compare();
        Assert.Equal(kills, killed);
        TestContext.Current.TestOutputHelper?.WriteLine($"{optimizer}: {killed} kills over {finished} runs of {Steps} steps, all bit-equal");
    }

    private void Compare()
    {
        Assert.Equal(Bytes("whole", "adapter_model.safetensors"), Bytes("broken", "adapter_model.safetensors"));
        foreach (string file in (string[])["trainable.safetensors", "optimizer.safetensors", "ema.safetensors"])
        {
            string last = Path.Combine("checkpoints", $"step-{Steps:00000000}", file);
            Assert.Equal(Bytes("whole", last), Bytes("broken", last));
        }

        Assert.Equal(Lines("whole"), Lines("broken"));
        byte[] Bytes(string run, string file) => File.ReadAllBytes(Path.Combine(_folder.Path(run), file));
        string[] Lines(string run) => [.. File.ReadAllLines(Path.Combine(_folder.Path(run), "metrics.jsonl")).Select(l => Speed().Replace(l, string.Empty))];
    }

    /// <returns>Whether it was killed before it was done.</returns>
    private async Task<bool> RunAsync(string optimizer, string data, string output, Random? killer)
    {
        string[] arguments = _folder.Arguments(
            data, output, $"training.max_steps={Steps}", $"training.optimizer={optimizer}", "data.packing=true", "data.max_length=24", "adapter.dropout=0.2",
            "training.neftune_alpha=5", "training.gradient_accumulation=2", "training.ema_decay=0.9", "training.save_steps=1", "training.eval_steps=7", "data.validation=2");
        ProcessStartInfo start = new(Path.Combine(AppContext.BaseDirectory, "lora" + (OperatingSystem.IsWindows() ? ".exe" : string.Empty)))
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            Environment = { ["OMP_NUM_THREADS"] = "1" },
        };
        foreach (string argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }

        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        var began = new TaskCompletionSource();
        process.OutputDataReceived += (_, line) =>
        {
            if (line.Data is null || line.Data.StartsWith("Training", StringComparison.Ordinal) || line.Data.StartsWith("Going on", StringComparison.Ordinal))
            {
                began.TrySetResult();
            }
        };
        process.BeginOutputReadLine();
        if (killer is not null)
        {
            // From the first step to the writing of the model card.
            await began.Task.WaitAsync(TestContext.Current.CancellationToken);
            await Task.Delay(killer.Next(0, 2500), TestContext.Current.CancellationToken);
            bool running = !process.HasExited;
            process.Kill();
            await process.WaitForExitAsync(TestContext.Current.CancellationToken);
            return running;
        }

        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.True(process.ExitCode == 0, await errors);
        return false;
    }

    [GeneratedRegex("\"tokens_per_second\":[^,]*,")]
    private static partial Regex Speed();
}
