namespace LoraSharp.Serving;

/// <summary>
/// Shares the engine's time between serving and other work: while requests run, a slice is due when the work is behind
/// its share; while none does, always. Used on the engine's thread.
/// </summary>
internal sealed class BackgroundQueue(TimeProvider clock)
{
    private static readonly TimeSpan Memory = TimeSpan.FromSeconds(10);

    private readonly Queue<Item> _items = new();
    private double _worked;
    private double _served;

    /// <summary>Whether anything is to be done.</summary>
    public bool HasWork => _items.Count > 0;

    /// <summary>Share of the time of about the last ten seconds that went to the work.</summary>
    public double Share => _items.Count == 0 || _worked + _served == 0 ? 0 : _worked / (_worked + _served);

    /// <summary>Puts work at the end of the queue.</summary>
    /// <param name="create">Makes it, on the engine's thread.</param>
    /// <param name="share">Share of the time while requests run, above 0, at most 1.</param>
    /// <param name="cancellation">Ends it between two slices.</param>
    /// <returns>Done when the work is, with its fault if it had one.</returns>
    public Task Add(Func<IBackgroundWork> create, double share, CancellationToken cancellation)
    {
        var item = new Item(create, share, cancellation);
        _items.Enqueue(item);
        return item.Done.Task;
    }

    /// <summary>A step of serving took so long.</summary>
    public void Served(TimeSpan time) => _served += time.TotalSeconds;

    /// <summary>Runs a slice if one is due.</summary>
    /// <param name="idle">Whether nobody waits for tokens.</param>
    public void RunSlice(bool idle)
    {
        if (!_items.TryPeek(out Item? item) || (!idle && !item.Cancellation.IsCancellationRequested && _worked > (_worked + _served) * item.Share))
        {
            return;
        }

        long start = clock.GetTimestamp();
        try
        {
            item.Cancellation.ThrowIfCancellationRequested();
            item.Work ??= item.Create();
            if (!item.Work.RunSlice())
            {
                End(null);
            }
        }
        catch (Exception error) when (error is not OutOfMemoryException)
        {
            End(error);
        }

        _worked += clock.GetElapsedTime(start).TotalSeconds;
        if (_worked + _served > Memory.TotalSeconds)
        {
            // What is long past counts less and less.
            _worked /= 2;
            _served /= 2;
        }
    }

    /// <summary>Ends everything.</summary>
    public void Stop(Exception error)
    {
        while (_items.Count > 0)
        {
            End(error);
        }
    }

    private void End(Exception? error)
    {
        Item item = _items.Dequeue();
        try
        {
            item.Work?.Dispose();
        }
        catch (Exception second) when (second is not OutOfMemoryException)
        {
            error ??= second;
        }

        if (error is null)
        {
            item.Done.SetResult();
        }
        else if (error is OperationCanceledException)
        {
            item.Done.SetCanceled(item.Cancellation);
        }
        else
        {
            item.Done.SetException(error);
        }
    }

    private sealed class Item(Func<IBackgroundWork> create, double share, CancellationToken cancellation)
    {
        public Func<IBackgroundWork> Create { get; } = create;

        public double Share { get; } = share;

        public CancellationToken Cancellation { get; } = cancellation;

        public IBackgroundWork? Work { get; set; }

        public TaskCompletionSource Done { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
