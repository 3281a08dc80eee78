using LoraSharp.Server.Access;

namespace LoraSharp.Server;

/// <summary>What changes while a server runs: its keys, and whether it still takes requests.</summary>
internal sealed class ServerState(ServerOptions options, TimeProvider clock) : IDisposable
{
    private readonly CancellationTokenSource _cutOff = new(Timeout.InfiniteTimeSpan, clock);
    private readonly CancellationTokenSource _stop = new();
    private readonly DateTimeOffset _started = clock.GetUtcNow();
    private volatile KeyRing _keys = new(options);
    private volatile bool _draining;
    private int _underWay;

    public KeyRing Keys => _keys;

    /// <summary>Whether new work is refused.</summary>
    public bool IsDraining => _draining;

    /// <summary>Requests that compute.</summary>
    public int UnderWay => Volatile.Read(ref _underWay);

    public DateTimeOffset Started => _started;

    /// <summary>Cancelled when requests under way must end for the server to stop in time.</summary>
    public CancellationToken CutOff => _cutOff.Token;

    /// <summary>Cancelled when the process is told to stop: who only watches has no time left.</summary>
    public CancellationToken Stopping => _stop.Token;

    public void Enter() => Interlocked.Increment(ref _underWay);

    public void Leave() => Interlocked.Decrement(ref _underWay);

    public void Drain() => _draining = true;

    public void Resume() => _draining = false;

    /// <summary>The process stops: nothing new, and what is under way has the time the options give.</summary>
    public void Stop()
    {
        Drain();
        _stop.Cancel();
        _cutOff.CancelAfter(options.DrainTimeout);
    }

    /// <summary>Reads the file of keys again; when it is faulty, the old keys stay.</summary>
    public void ReloadKeys()
    {
        KeyRing old = _keys;
        _keys = new KeyRing(options);

        // Requests under way still count on the old one.
        _ = Task.Delay(options.RequestTimeout, clock, _cutOff.Token).ContinueWith(_ => old.Dispose(), CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
    }

    public void Dispose()
    {
        _cutOff.Cancel();
        _cutOff.Dispose();
        _stop.Dispose();
        _keys.Dispose();
    }
}
