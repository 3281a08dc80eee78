using System.Diagnostics;
using System.Globalization;

namespace LoraSharp.Formats.Tests.Damage;

/// <summary>Tries an action on many damaged inputs: each is taken or refused by one error of ours; nothing else comes out, and soon.</summary>
internal static class DamagedFile
{
    /// <summary>How many, times what LORASHARP_FUZZ_TIMES says (default 1).</summary>
    public static int Count(int count) =>
        int.TryParse(Environment.GetEnvironmentVariable("LORASHARP_FUZZ_TIMES"), NumberStyles.None, CultureInfo.InvariantCulture, out int times) ? count * times : count;

    /// <summary>Runs them all and fails with the first few that came out otherwise.</summary>
    public static void Try(int count, int seed, Func<Random, string> damage, Action open)
    {
        var faults = new SortedDictionary<string, string>();
        int refused = 0;
        for (int i = 0; i < count; i++)
        {
            string what = damage(new Random(seed * 1_000_003 + i));
            long start = Stopwatch.GetTimestamp();
            try
            {
                Task running = Task.Run(open);
                if (Task.WhenAny(running, Task.Delay(TimeSpan.FromSeconds(20))).GetAwaiter().GetResult() != running)
                {
                    faults.TryAdd("it takes more than 20 s", what);
                    break;
                }

                running.GetAwaiter().GetResult();
            }
            catch (LoraSharpException error)
            {
                refused++;
                if (error.Message.Length > 20_000)
                {
                    faults.TryAdd("a message of " + error.Message.Length + " characters", what);
                }
            }
            catch (Exception error)
            {
                string place = (error.StackTrace ?? "").Split('\n').FirstOrDefault(line => line.Contains("LoraSharp.", StringComparison.Ordinal) && !line.Contains(".Tests.", StringComparison.Ordinal)) ?? "";
                faults.TryAdd(error.GetType().Name + place + ": " + error.Message, what);
            }

            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            if (seconds > 5)
            {
                faults.TryAdd($"it took {seconds:F1} s", what);
            }
        }

        Assert.True(faults.Count == 0, $"{faults.Count} kinds of {count} inputs:\n" + string.Join('\n', faults.Take(15).Select(fault => $"{fault.Key}\n    {(fault.Value.Length > 400 ? fault.Value[..400] : fault.Value)}")));
        Assert.True(refused > 0, "nothing was refused");
    }
}
