using System.Diagnostics;

namespace LoraSharp.Benchmarks;

/// <summary>Minimum over many short runs: the one statistic that neighbours on the machine can only make worse, not better.</summary>
internal static class Stopwatches
{
    /// <summary>Seconds of the fastest call within <paramref name="budget"/> seconds, after two unmeasured ones.</summary>
    public static double Fastest(Action action, double budget = 0.6)
    {
        action();
        action();
        double best = double.MaxValue;
        long start = Stopwatch.GetTimestamp();
        do
        {
            long before = Stopwatch.GetTimestamp();
            action();
            best = Math.Min(best, Stopwatch.GetElapsedTime(before).TotalSeconds);
        }
        while (Stopwatch.GetElapsedTime(start).TotalSeconds < budget);
        return best;
    }
}
