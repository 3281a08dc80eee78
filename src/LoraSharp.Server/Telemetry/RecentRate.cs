using System.Diagnostics;

namespace LoraSharp.Server.Telemetry;

/// <summary>How often something happened a second, over the last ten whole seconds.</summary>
internal sealed class RecentRate
{
    private const int Span = 10;

    private readonly Lock _lock = new();
    private readonly long[] _counts = new long[Span + 1];
    private long _second;

    public void Add(long timestamp)
    {
        lock (_lock)
        {
            Advance(timestamp / Stopwatch.Frequency);
            _counts[_second % _counts.Length]++;
        }
    }

    public double PerSecond(long timestamp)
    {
        lock (_lock)
        {
            Advance(timestamp / Stopwatch.Frequency);

            // The second that has begun does not count yet.
            return (_counts.Sum() - _counts[_second % _counts.Length]) / (double)Span;
        }
    }

    private void Advance(long second)
    {
        for (long skipped = Math.Max(_second + 1, second - Span); skipped <= second; skipped++)
        {
            _counts[skipped % _counts.Length] = 0;
        }

        _second = Math.Max(_second, second);
    }
}
