using System.Diagnostics;
using System.Globalization;

namespace LoraSharp.Cli.Tests;

/// <summary>Ctrl+C in the middle of a run, as a process gets it.</summary>
public sealed class InterruptionTests : IDisposable
{
    private readonly TrainingFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("INT")]
    [InlineData("TERM")]
    public async Task A_signal_saves_the_run_and_says_how_to_go_on(string signal)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "Windows has no kill -INT.");
        string data = _folder.Write("rows.jsonl", """{"text": "a b c d e f"}""");
        ProcessStartInfo start = new(Path.Combine(AppContext.BaseDirectory, "lora")) { RedirectStandardOutput = true, RedirectStandardError = true, Environment = { ["OMP_NUM_THREADS"] = "1" } };
        foreach (string argument in _folder.Arguments(data, "run", "training.max_steps=100000", "training.batch_size=1", "training.save_steps=100000"))
        {
            start.ArgumentList.Add(argument);
        }

        using Process lora = Process.Start(start)!;
        Task<string> output = lora.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken), error = lora.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        try
        {
            string metrics = Path.Combine(_folder.Path("run"), "metrics.jsonl");
            while (!lora.HasExited && !(File.Exists(metrics) && new FileInfo(metrics).Length > 0))
            {
                await Task.Delay(20, TestContext.Current.CancellationToken);
            }

            Assert.SkipWhen(signal == "INT" && IgnoresInterrupts(lora.Id), "SIGINT is ignored here and so by every process started from here (nohup, a job in the background).");
            using Process kill = Process.Start("kill", [$"-{signal}", lora.Id.ToString(CultureInfo.InvariantCulture)]);
            await lora.WaitForExitAsync(TestContext.Current.CancellationToken);
        }
        finally
        {
            if (!lora.HasExited)
            {
                lora.Kill();
            }
        }

        Assert.True(lora.ExitCode == 1, $"{lora.ExitCode}: {await error}");
        Assert.Contains("Stopping; once more ends it at once.", await error, StringComparison.Ordinal);
        Assert.Matches(@"Stopped after step \d+ of 100000\. Everything is saved in .*checkpoints.*: run the same command again to go on\.", await output);
    }

    // A process that inherits an ignored SIGINT leaves it at that.
    private static bool IgnoresInterrupts(int process)
    {
        const int Interrupt = 2;
        string status = $"/proc/{process}/status", field = "SigIgn:";
        return File.Exists(status) && File.ReadLines(status).FirstOrDefault(l => l.StartsWith(field, StringComparison.Ordinal)) is { } ignored
            && (Convert.ToUInt64(ignored[field.Length..].Trim(), 16) & (1UL << (Interrupt - 1))) != 0;
    }
}
