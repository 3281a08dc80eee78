using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using LoraSharp.Formats.Hub;
using Spectre.Console;

namespace LoraSharp.Cli.Commands;

/// <summary>How far downloads and uploads are: bars on a terminal, lines in a pipe; on standard error, so that results can be piped.</summary>
internal static class TransferView
{
    private static readonly string[] Units = ["B", "kB", "MB", "GB", "TB"];

    /// <summary>Runs a transfer under a view of it.</summary>
    public static async Task<T> ShowAsync<T>(bool quiet, Func<IProgress<TransferProgress>?, Task<T>> transfer)
    {
        if (quiet)
        {
            return await transfer(null);
        }

        if (Console.IsErrorRedirected || !Environment.UserInteractive)
        {
            return await transfer(new Lines(Console.Error));
        }

        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Error) });
        return await console.Progress()
            .Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn(), new PercentageColumn(), new DownloadedColumn(), new TransferSpeedColumn(), new RemainingTimeColumn())
            .StartAsync(context => transfer(new Bars(context)));
    }

    /// <summary>Bytes as a person reads them, in powers of 1000.</summary>
    public static string Size(long bytes)
    {
        double size = bytes;
        int unit = 0;
        for (; size >= 999.5 && unit < Units.Length - 1; unit++)
        {
            size /= 1000;
        }

        return string.Create(CultureInfo.InvariantCulture, $"{(unit == 0 ? size : Math.Round(size, size < 10 ? 2 : size < 100 ? 1 : 0))} {Units[unit]}");
    }

    private sealed class Bars(ProgressContext context) : IProgress<TransferProgress>
    {
        private readonly ConcurrentDictionary<string, ProgressTask> _tasks = new();

        public void Report(TransferProgress value)
        {
            ProgressTask task = _tasks.GetOrAdd(value.File, name => context.AddTask(Markup.Escape(name), maxValue: Math.Max(1, value.Total)));
            task.MaxValue = Math.Max(1, value.Total);
            task.Value = value.State is TransferState.Done or TransferState.Present ? task.MaxValue : value.Done;
            task.Description = Markup.Escape(value.File) + (value.State == TransferState.Retrying ? " [yellow](trying again)[/]" : string.Empty);
        }
    }

    private sealed class Lines(TextWriter output) : IProgress<TransferProgress>
    {
        private static readonly TimeSpan Pause = TimeSpan.FromSeconds(10);

        private readonly Lock _lock = new();
        private readonly Dictionary<string, (long At, long Done)> _last = [];

        public void Report(TransferProgress value)
        {
            lock (_lock)
            {
                switch (value.State)
                {
                    case TransferState.Done:
                        output.WriteLine($"{value.File}  {Size(value.Total)}");
                        break;
                    case TransferState.Present:
                        output.WriteLine($"{value.File}  {Size(value.Total)}  (was there)");
                        break;
                    case TransferState.Retrying:
                        output.WriteLine($"{value.File}  trying again at {Size(value.Done)}: {value.Note}");
                        break;
                    case TransferState.Moving:
                        Moving(value);
                        break;
                }
            }
        }

        private void Moving(TransferProgress value)
        {
            long now = Stopwatch.GetTimestamp();
            if (!_last.TryGetValue(value.File, out (long At, long Done) last))
            {
                _last[value.File] = (now, value.Done);
                return;
            }

            TimeSpan passed = Stopwatch.GetElapsedTime(last.At, now);
            if (passed >= Pause)
            {
                double speed = Math.Max(1, (value.Done - last.Done) / passed.TotalSeconds);
                var left = TimeSpan.FromSeconds(Math.Min(359_999, (value.Total - value.Done) / speed));
                output.WriteLine($"{value.File}  {Size(value.Done)} of {Size(value.Total)}  {Size((long)speed)}/s  {left:hh\\:mm\\:ss} left");
                _last[value.File] = (now, value.Done);
            }
        }
    }
}
