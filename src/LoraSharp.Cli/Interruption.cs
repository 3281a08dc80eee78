using System.Runtime.InteropServices;

namespace LoraSharp.Cli;

/// <summary>
/// Ctrl+C (or SIGTERM) while a command works: the first cancels its token, so that a run saves where it is and says how to go on; the
/// second ends the process at once. System.CommandLine has the same, but listens only once an action has returned its task, and
/// ours work on the thread that called them.
/// </summary>
internal sealed class Interruption : IDisposable
{
    private readonly CancellationTokenSource _source = new();
    private readonly PosixSignalRegistration[] _signals;

    public Interruption() => _signals = [PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop), PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop)];

    public CancellationToken Token => _source.Token;

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in _signals)
        {
            signal.Dispose();
        }

        _source.Dispose();
    }

    private void Stop(PosixSignalContext signal)
    {
        if (!_source.IsCancellationRequested)
        {
            signal.Cancel = true;
            Console.Error.WriteLine("Stopping; once more ends it at once.");
            _source.Cancel();
        }
    }
}
