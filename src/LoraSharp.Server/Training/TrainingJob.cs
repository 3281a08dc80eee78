using System.Runtime.CompilerServices;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Training;

namespace LoraSharp.Server.Training;

/// <summary>Where a training run stands.</summary>
public enum TrainingState
{
    /// <summary>Data and adapter are prepared.</summary>
    Starting,

    /// <summary>Steps are made.</summary>
    Running,

    /// <summary>Done; the adapter answers under its name.</summary>
    Completed,

    /// <summary>It ended early with a checkpoint: the same recipe goes on from there.</summary>
    Cancelled,

    /// <summary>It failed.</summary>
    Failed,
}

/// <summary>A training run beside serving, as those who watch it see it.</summary>
public sealed class TrainingJob : ITrainingObserver
{
    // Who comes late reads from here on; the run folder's metrics.jsonl has everything.
    private const int MostKept = 10_000;

    private readonly TimeProvider _clock;
    private readonly DateTimeOffset _started;
    private readonly CancellationTokenSource _cancel = new();
    private readonly TaskCompletionSource _begun = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _gate = new();
    private readonly Queue<(long Id, string Text)> _events = new();
    private TaskCompletionSource _more = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _lastId;

    internal TrainingJob(string name, string output, double share, TimeProvider clock)
    {
        Name = name;
        Output = Path.GetFullPath(output);
        Share = share;
        _clock = clock;
        _started = clock.GetUtcNow();
    }

    /// <summary>What requests call the adapter when it is done.</summary>
    public string Name { get; }

    /// <summary>The run folder.</summary>
    public string Output { get; }

    /// <summary>Its share of the time while requests run.</summary>
    public double Share { get; }

    /// <summary>Where it stands.</summary>
    public TrainingState State { get; private set; }

    /// <summary>Optimizer steps done.</summary>
    public long Step { get; private set; }

    /// <summary>Optimizer steps in all; 0 before it has begun.</summary>
    public long TotalSteps { get; private set; }

    /// <summary>The last step's loss; null before.</summary>
    public double? Loss { get; private set; }

    /// <summary>Why it failed; null where it has not.</summary>
    public Exception? Error { get; private set; }

    /// <summary>What came of it; null before its end or where it failed.</summary>
    public FineTuneResult? Result { get; private set; }

    /// <summary>Whether it has ended in one way or another.</summary>
    public bool IsOver => _ended.Task.IsCompleted;

    /// <summary>Done when the first step can be made, or when it has ended before.</summary>
    public Task Begun => _begun.Task;

    /// <summary>Done when it has ended in one way or another.</summary>
    public Task Ended => _ended.Task;

    /// <summary>Ends it after the step it is in, with a checkpoint.</summary>
    public void Cancel() => _cancel.Cancel();

    /// <inheritdoc/>
    public void On(TrainingEvent happened)
    {
        lock (_gate)
        {
            Step = happened.Step;
            switch (happened)
            {
                case TrainingStarted started:
                    State = TrainingState.Running;
                    TotalSteps = started.TotalSteps;
                    break;
                case StepCompleted step:
                    Loss = step.Loss;
                    break;
            }

            // The end is told when the adapter answers, not before.
            if (happened is not TrainingEnded)
            {
                Add(TrainingEventJson.Of(happened));
            }
        }

        if (happened is TrainingStarted)
        {
            _begun.TrySetResult();
        }
    }

    internal void Run(Func<Action<string>, CancellationToken, Task<FineTuneResult>> train, Action<string>? notes) => _ = Task.Run(async () =>
    {
        FineTuneResult? result = null;
        Exception? fault = null;
        try
        {
            result = await train(
                note =>
                {
                    Tell(note);
                    notes?.Invoke(note);
                },
                _cancel.Token).ConfigureAwait(false);
        }
        catch (Exception error)
        {
            fault = error;
        }

        End(result, fault);
    });

    /// <summary>Events from a number on, then those that come, until it has ended.</summary>
    /// <param name="after">The last number that is known already; 0 for all that are kept.</param>
    /// <param name="cancellation">Ends the enumeration, not the run.</param>
    internal async IAsyncEnumerable<(long Id, string Text)> EventsAsync(long after, [EnumeratorCancellation] CancellationToken cancellation)
    {
        while (true)
        {
            (long Id, string Text)[] fresh;
            Task more;
            lock (_gate)
            {
                fresh = [.. _events.Where(e => e.Id > after)];
                more = _more.Task;
            }

            foreach ((long Id, string Text) happened in fresh)
            {
                yield return happened;
                after = happened.Id;
            }

            if (fresh.Length == 0)
            {
                if (IsOver)
                {
                    yield break;
                }

                await more.WaitAsync(cancellation).ConfigureAwait(false);
            }
        }
    }

    internal JsonObject ToJson()
    {
        lock (_gate)
        {
            return new JsonObject
            {
                ["name"] = Name,
                ["state"] = StateName(),
                ["step"] = Step,
                ["total_steps"] = TotalSteps,
                ["loss"] = TrainingEventJson.Finite(Loss),
                ["share"] = Share,
                ["started"] = _started.ToUnixTimeSeconds(),
                ["output"] = Output,
                ["error"] = Error is null ? null : Message(Error),
                ["last_event"] = _lastId,
            };
        }
    }

    private static string Message(Exception error) => error is LoraSharpException or OperationCanceledException ? error.Message : $"The run failed ({error.GetType().Name}: {error.Message}).";

    private string StateName() => State.ToString().ToLowerInvariant();

    private void End(FineTuneResult? result, Exception? fault)
    {
        lock (_gate)
        {
            Result = result;
            Error = fault is OperationCanceledException ? null : fault;
            State = fault is OperationCanceledException || result is { Complete: false } ? TrainingState.Cancelled : fault is not null ? TrainingState.Failed : TrainingState.Completed;
            string message = State switch
            {
                TrainingState.Completed => $"'{Name}' is served.",
                TrainingState.Failed => Message(fault!),
                _ => $"Stopped after step {Step}; the same recipe goes on from there.",
            };
            _ended.SetResult();
            Add(new JsonObject { ["event"] = "ended", ["state"] = StateName(), ["step"] = Step, ["message"] = message });
        }

        _begun.TrySetResult();
    }

    private void Tell(string message)
    {
        lock (_gate)
        {
            Add(new JsonObject { ["event"] = "note", ["message"] = message });
        }
    }

    // With the lock held.
    private void Add(JsonObject happened)
    {
        happened["time"] = _clock.GetUtcNow().ToUnixTimeSeconds();
        _events.Enqueue((++_lastId, happened.ToJsonString(JsonBody.Options)));
        if (_events.Count > MostKept)
        {
            _events.Dequeue();
        }

        TaskCompletionSource waiting = _more;
        _more = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        waiting.SetResult();
    }
}
