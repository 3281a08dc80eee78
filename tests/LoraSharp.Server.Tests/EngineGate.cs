using LoraSharp.Serving;

namespace LoraSharp.Server.Tests;

/// <summary>
/// Holds an engine's thread between its steps and lets it make one at a time, so that a test decides what has happened when.
/// While it is held, the engine neither takes requests in nor lets go of them.
/// </summary>
internal sealed class EngineGate : IAsyncDisposable
{
    private readonly SemaphoreSlim _turns = new(0);
    private readonly SemaphoreSlim _held = new(0);
    private readonly InferenceEngine _engine;
    private readonly Task _work;
    private volatile bool _open;

    private EngineGate(InferenceEngine engine)
    {
        _engine = engine;

        // With all of the time for itself, it has a turn after every step.
        _work = engine.RunBesideAsync(() => new Turns(this), share: 1);
    }

    /// <summary>Comes back when the engine is held.</summary>
    public static async Task<EngineGate> CloseAsync(InferenceEngine engine, CancellationToken cancellation)
    {
        var gate = new EngineGate(engine);
        await gate._held.WaitAsync(cancellation);
        return gate;
    }

    /// <summary>Lets the engine make steps until something holds; it is held again then.</summary>
    public async Task StepUntilAsync(Func<EngineStatus, bool> holds, CancellationToken cancellation)
    {
        while (!holds(_engine.Status))
        {
            _turns.Release();
            await _held.WaitAsync(cancellation);
        }
    }

    /// <summary>Lets the engine go.</summary>
    public async ValueTask DisposeAsync()
    {
        _open = true;
        _turns.Release();
        await _work;
        _turns.Dispose();
        _held.Dispose();
    }

    private sealed class Turns(EngineGate gate) : IBackgroundWork
    {
        public bool RunSlice()
        {
            gate._held.Release();
            gate._turns.Wait();
            return !gate._open;
        }

        public void Dispose()
        {
        }
    }
}
