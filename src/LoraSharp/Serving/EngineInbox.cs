using System.Collections.Concurrent;
using LoraSharp.Formats;

namespace LoraSharp.Serving;

/// <summary>What other threads ask the engine's thread to do.</summary>
internal sealed class EngineInbox
{
    private readonly BlockingCollection<(Action Run, Action<Exception>? Fail)> _commands = [];

    /// <summary>Has something done.</summary>
    /// <param name="run">Called on the engine's thread.</param>
    /// <param name="fail">Called instead, on any thread, when the engine has stopped; null for nothing.</param>
    public void Post(Action run, Action<Exception>? fail = null) => TryAdd(run, fail);

    /// <summary>Has something done that others wait for.</summary>
    public Task<T> Run<T>(Func<T> work)
    {
        var done = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        TryAdd(
            () =>
            {
                try
                {
                    done.SetResult(work());
                }
                catch (Exception error) when (error is not OutOfMemoryException)
                {
                    done.SetException(error);
                }
            },
            error => done.TrySetException(error));
        return done.Task;
    }

    /// <summary>Does what is there; the engine's thread only.</summary>
    /// <param name="wait">Whether to wait for something where there is nothing.</param>
    public void Work(bool wait)
    {
        while (_commands.TryTake(out (Action Run, Action<Exception>? Fail) command, wait ? Timeout.Infinite : 0))
        {
            command.Run();
            wait = false;
        }
    }

    /// <summary>Takes no more.</summary>
    public void Close() => _commands.CompleteAdding();

    /// <summary>Lets everybody know who still waits.</summary>
    public void Refuse()
    {
        while (_commands.TryTake(out (Action Run, Action<Exception>? Fail) command))
        {
            command.Fail?.Invoke(Stopped());
        }
    }

    /// <summary>Why nothing more is done.</summary>
    public static LoraSharpException Stopped() => new EngineStoppedException();

    private void TryAdd(Action run, Action<Exception>? fail)
    {
        try
        {
            _commands.Add((run, fail));
        }
        catch (InvalidOperationException)
        {
            // Closed.
            fail?.Invoke(Stopped());
        }
    }
}
