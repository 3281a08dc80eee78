using System.Collections.Concurrent;

namespace LoraSharp.Server.Telemetry;

/// <summary>Values of a metric's label: the first so many are told apart, all others are <c>other</c>, so that thousands of adapters do not make thousands of time series.</summary>
internal sealed class BoundedNames(int most)
{
    public const string Other = "other";

    private readonly ConcurrentDictionary<string, string> _names = new(StringComparer.Ordinal);

    public string Of(string name) => _names.TryGetValue(name, out string? known) ? known
        : _names.Count >= most ? Other
        : _names.GetOrAdd(name, name);
}
