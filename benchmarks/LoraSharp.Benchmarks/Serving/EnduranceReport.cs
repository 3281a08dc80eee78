using System.Text.Json;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>State of the process while nothing runs, the same adapters having been used last.</summary>
/// <param name="Seconds">Since the start.</param>
/// <param name="Tensors">Live tensors.</param>
/// <param name="ResidentMegabytes">Memory of the process.</param>
/// <param name="ManagedMegabytes">Managed heap after a collection.</param>
/// <param name="UsedBlocks">Blocks of the key-value cache that sequences hold; none run.</param>
/// <param name="FreeBlocks">Blocks that are free or hold nothing but a prefix to be shared: all of them.</param>
/// <param name="Answers">Checked so far.</param>
internal sealed record RestFigures(double Seconds, long Tensors, double ResidentMegabytes, double ManagedMegabytes, int UsedBlocks, int FreeBlocks, long Answers);

/// <summary>What an endurance run found.</summary>
internal sealed class EnduranceReport
{
    private static readonly JsonSerializerOptions Json = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, WriteIndented = true };

    private readonly Lock _gate = new();

    public Dictionary<string, long> Counts { get; } = [];

    public long Tokens { get; private set; }

    /// <summary>What should not have happened; the first twenty are told.</summary>
    public List<string> Wrong { get; } = [];

    public long WrongCount { get; private set; }

    public List<RestFigures> Rests { get; } = [];

    public double Seconds { get; set; }

    /// <summary>Sequences that gave up their blocks for others and were computed again.</summary>
    public long Preemptions { get; set; }

    /// <summary>Prompt tokens that were found in the cache.</summary>
    public long SharedTokens { get; set; }

    public void Count(string what, int tokens = 0)
    {
        lock (_gate)
        {
            Counts[what] = Counts.GetValueOrDefault(what) + 1;
            Tokens += tokens;
        }
    }

    public void Fault(string message)
    {
        lock (_gate)
        {
            WrongCount++;
            if (Wrong.Count < 20)
            {
                Wrong.Add(message);
            }
        }
    }

    /// <summary>Answers that were compared with the expected ones.</summary>
    public long Answers => Counted("answer");

    /// <summary>Adapters that were loaded or taken away over HTTP.</summary>
    public long Changes => Counted("load: 200") + Counted("unload: 200");

    private long Counted(string prefix)
    {
        lock (_gate)
        {
            return Counts.Where(c => c.Key.StartsWith(prefix, StringComparison.Ordinal)).Sum(c => c.Value);
        }
    }

    /// <summary>What is wrong with the rests: tensors or blocks left over, memory that grows. Empty when all is flat.</summary>
    /// <param name="growth">Share by which the memory of the last third may be above that of the second third.</param>
    public IReadOnlyList<string> Leaks(double growth = 0.05)
    {
        // The first third warms up: code is compiled, pools and buffers find their size.
        RestFigures[] warm = [.. Rests.Skip(Rests.Count / 3)];
        if (warm.Length < 2)
        {
            return ["too few rests to compare"];
        }

        double middle = warm[..(warm.Length / 2)].Max(r => r.ResidentMegabytes);
        double last = warm[(warm.Length / 2)..].Min(r => r.ResidentMegabytes);
        string?[] leaks =
        [
            warm.Select(r => r.Tensors).Distinct().Count() > 1 ? $"live tensors at the rests: {string.Join(", ", warm.Select(r => r.Tensors))}" : null,
            Rests.Any(r => r.UsedBlocks != 0) ? $"cache blocks in use at the rests: {string.Join(", ", Rests.Select(r => r.UsedBlocks))}" : null,
            Rests.Select(r => r.FreeBlocks).Distinct().Count() > 1 ? $"cache blocks free at the rests: {string.Join(", ", Rests.Select(r => r.FreeBlocks))}" : null,
            last > middle * (1 + growth) ? $"resident memory grew from {middle:F0} MB to {last:F0} MB" : null,
        ];
        return [.. leaks.OfType<string>()];
    }

    public string ToJson() => JsonSerializer.Serialize(new { Seconds, Answers, Tokens, Preemptions, SharedTokens, Counts, WrongCount, Wrong, Leaks = Leaks(), Rests }, Json);

    public string ToText() => string.Join(
        Environment.NewLine,
        [
            $"{Seconds:F0} s: {Answers} answers checked, {Tokens} tokens, {WrongCount} wrong; {Preemptions} preemptions, {SharedTokens} prompt tokens shared",
            .. Counts.OrderBy(c => c.Key, StringComparer.Ordinal).Select(c => $"  {c.Key,-28} {c.Value,8}"),
            "    at s  tensors   RSS MB  heap MB  blocks used   free",
            .. Rests.Select(r => $"  {r.Seconds,6:F0} {r.Tensors,8} {r.ResidentMegabytes,8:F1} {r.ManagedMegabytes,8:F1} {r.UsedBlocks,12} {r.FreeBlocks,6}"),
            .. Wrong,
            .. Leaks(),
        ]);
}
