using LoraSharp.Serving;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>How a server is put to the test over time.</summary>
internal sealed record EnduranceOptions
{
    /// <summary>Shortest time the load lasts.</summary>
    public double Seconds { get; init; } = 60;

    /// <summary>The load goes on until so many answers were checked, however slow the machine is.</summary>
    public long Answers { get; init; }

    /// <summary>And until so many adapters were loaded or taken away.</summary>
    public long Changes { get; init; }

    /// <summary>Clients that ask side by side.</summary>
    public int Clients { get; init; } = 12;

    /// <summary>Different prompts; each has a known answer of every adapter.</summary>
    public int Questions { get; init; } = 8;

    /// <summary>Longest prompt.</summary>
    public int Prompt { get; init; } = 40;

    /// <summary>Longest answer.</summary>
    public int Answer { get; init; } = 40;

    /// <summary>Times the load is let run empty to count tensors, memory and blocks.</summary>
    public int Rests { get; init; } = 10;

    /// <summary>Ids of prompts are below this.</summary>
    public int Vocabulary { get; init; } = 1000;

    public int Seed { get; init; } = 1;

    /// <summary>Narrow on purpose, so that requests queue, adapters are pushed out and caches fill up.</summary>
    public EngineLimits Limits { get; init; } = new() { MaxBatch = 8, MaxWaiting = 64, CacheTokens = 500, MaxLoadedAdapters = 3 };
}
