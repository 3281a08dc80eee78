namespace LoraSharp.Benchmarks.Serving;

/// <summary>Lets many work at once and, from time to time, one alone, once the others have ended what they are at.</summary>
internal sealed class PauseGate
{
    private readonly Lock _gate = new();
    private int _inside;
    private TaskCompletionSource? _paused;
    private TaskCompletionSource? _empty;

    /// <summary>Waits while there is a pause; the end of what it gives is the end of one's work.</summary>
    public async Task<IDisposable> EnterAsync(CancellationToken cancellation)
    {
        while (true)
        {
            Task wait;
            lock (_gate)
            {
                if (_paused is null)
                {
                    _inside++;
                    return new Leave(this);
                }

                wait = _paused.Task;
            }

            await wait.WaitAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Holds newcomers back and waits until nobody is inside; the pause lasts until what it gives is disposed.</summary>
    public async Task<IDisposable> PauseAsync()
    {
        Task empty;
        lock (_gate)
        {
            _paused = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _empty = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            if (_inside == 0)
            {
                _empty.SetResult();
            }

            empty = _empty.Task;
        }

        await empty.ConfigureAwait(false);
        return new Resume(this);
    }

    private sealed class Leave(PauseGate gate) : IDisposable
    {
        public void Dispose()
        {
            lock (gate._gate)
            {
                if (--gate._inside == 0)
                {
                    gate._empty?.TrySetResult();
                }
            }
        }
    }

    private sealed class Resume(PauseGate gate) : IDisposable
    {
        public void Dispose()
        {
            lock (gate._gate)
            {
                gate._paused!.SetResult();
                gate._paused = null;
                gate._empty = null;
            }
        }
    }
}
