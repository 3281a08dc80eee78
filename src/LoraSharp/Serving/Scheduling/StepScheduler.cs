using LoraSharp.Serving.Cache;

namespace LoraSharp.Serving.Scheduling;

/// <summary>
/// Decides who runs and what each computes in the next step: everybody who has one token to go first, then pieces of
/// prompts as far as the step's budget of tokens reaches. When blocks run out, the latest to arrive gives up its own and
/// is computed anew later ("recompute", Kwon et al. 2023, section 4.5). Numbers and lists, no tensors.
/// </summary>
internal sealed class StepScheduler
{
    private readonly LinkedList<RunningSequence> _waiting = new();
    private readonly List<RunningSequence> _running = [];
    private readonly BlockPool _pool;
    private readonly EngineLimits _limits;
    private readonly bool _whole;
    private readonly Func<long, long, bool> _invalidates;
    private long _arrivals;

    /// <summary>Creates a scheduler.</summary>
    /// <param name="pool">The blocks.</param>
    /// <param name="limits">Batch and budget.</param>
    /// <param name="whole">
    /// Whether a prompt is computed in one piece whatever the budget and all the blocks a sequence may come to need are
    /// taken at the start: for models whose early keys depend on how long the piece is (dynamic RoPE).
    /// </param>
    /// <param name="invalidates">Whether growing from one length to another makes what is cached wrong; then all of it is computed anew.</param>
    public StepScheduler(BlockPool pool, EngineLimits limits, bool whole, Func<long, long, bool> invalidates)
    {
        _invalidates = invalidates;
        _pool = pool;
        _limits = limits;
        _whole = whole;
    }

    /// <summary>Who runs, the earliest to arrive first.</summary>
    public IReadOnlyList<RunningSequence> Running => _running;

    /// <summary>Who waits, in the order in which they are to be admitted.</summary>
    public IReadOnlyCollection<RunningSequence> Waiting => _waiting;

    /// <summary>How often a sequence had to give up its blocks.</summary>
    public long Preemptions { get; private set; }

    /// <summary>Puts a newcomer at the end of the queue.</summary>
    public void Add(RunningSequence sequence)
    {
        sequence.Arrival = _arrivals++;
        _waiting.AddLast(sequence);
    }

    /// <summary>Takes who has ended out, and gives their blocks back at once.</summary>
    public IReadOnlyList<RunningSequence> RemoveEnded()
    {
        RunningSequence[] ended = [.. _running.Where(s => s.HasEnded), .. _waiting.Where(s => s.HasEnded)];
        foreach (RunningSequence sequence in ended)
        {
            sequence.Blocks.Release();
            if (!_running.Remove(sequence))
            {
                _waiting.Remove(sequence);
            }
        }

        return ended;
    }

    /// <summary>Lets one who waits run, if there is a place and blocks for all its tokens.</summary>
    public bool TryAdmit(RunningSequence sequence)
    {
        int room = _whole ? sequence.Longest : sequence.Tokens.Count;
        if (_running.Count >= _limits.MaxBatch || !sequence.Blocks.TryStart(sequence.TokenSpan, room, sequence.ContentKey))
        {
            return false;
        }

        sequence.IsRunning = true;
        _waiting.Remove(sequence);
        int place = _running.FindIndex(r => r.Arrival > sequence.Arrival);
        _running.Insert(place < 0 ? _running.Count : place, sequence);
        return true;
    }

    /// <summary>The next step.</summary>
    public IReadOnlyList<StepChunk> Plan()
    {
        var plan = new Dictionary<RunningSequence, StepChunk>();
        int budget = _limits.StepTokens;
        foreach (RunningSequence stale in _running.Where(s => _whole && _invalidates(s.Blocks.Computed, s.Tokens.Count)))
        {
            stale.Blocks.Rewind();
        }

        foreach (RunningSequence sequence in _running.OrderBy(s => s.Remaining > 1).ToArray())
        {
            int count = _whole ? sequence.Remaining : Math.Min(sequence.Remaining, budget);
            if (count > 0 && sequence.IsRunning && HasBlocks(sequence, plan))
            {
                plan[sequence] = new StepChunk(sequence, sequence.Blocks.Computed, count);
                budget -= count;
            }
        }

        return [.. plan.Values];
    }

    // Blocks for all its tokens, at the cost of those who arrived later; false when it had to go itself.
    private bool HasBlocks(RunningSequence sequence, Dictionary<RunningSequence, StepChunk> plan)
    {
        while (!sequence.Blocks.TryGrow(sequence.Tokens.Count))
        {
            RunningSequence latest = _running[^1];
            plan.Remove(latest);
            Preempt(latest);
            if (latest == sequence)
            {
                return false;
            }
        }

        return true;
    }

    private void Preempt(RunningSequence sequence)
    {
        sequence.Blocks.Release();
        sequence.IsRunning = false;
        _running.Remove(sequence);
        LinkedListNode<RunningSequence>? later = _waiting.First;
        while (later is not null && later.Value.Arrival < sequence.Arrival)
        {
            later = later.Next;
        }

        if (later is null)
        {
            _waiting.AddLast(sequence);
        }
        else
        {
            _waiting.AddBefore(later, sequence);
        }

        Preemptions++;
    }
}
