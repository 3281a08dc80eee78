namespace LoraSharp.Serving;

/// <summary>Counts requests that wait, over all threads that bring them.</summary>
/// <param name="places">Most of them.</param>
internal sealed class WaitingRoom(int places)
{
    private int _taken;

    /// <summary>Takes a place; false when there is none.</summary>
    public bool TryEnter()
    {
        if (Interlocked.Increment(ref _taken) <= places)
        {
            return true;
        }

        Leave();
        return false;
    }

    /// <summary>Gives a place back.</summary>
    public void Leave() => Interlocked.Decrement(ref _taken);
}
