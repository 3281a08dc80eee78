using LoraSharp.Serving.Cache;
using LoraSharp.Serving.Scheduling;
using LoraSharp.Serving.Shelf;
using LoraSharp.Tensors.Interop;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Serving;

/// <summary>What the engine's thread does over and over: let go, admit, schedule, run, publish. Only that thread comes here.</summary>
/// <param name="scheduler">Who runs, and how much of each.</param>
/// <param name="runner">Computes a pass.</param>
/// <param name="shelf">The adapters.</param>
/// <param name="background">Other work, between the steps.</param>
/// <param name="pool">Blocks of the cache, to tell of.</param>
/// <param name="metrics">Told of everything.</param>
/// <param name="waiting">Places, given back by who is admitted or leaves before.</param>
/// <param name="alone">Whether each sequence needs a pass of its own: the model's frequencies depend on the length.</param>
internal sealed class EngineTurn(StepScheduler scheduler, IStepRunner runner, AdapterShelf shelf, BackgroundQueue background, BlockPool pool, EngineMetrics metrics, WaitingRoom waiting, bool alone)
{
    private EngineStatus _status = new(0, 0, 0, 0, 0, 0);

    /// <summary>Where the engine stands; for any thread.</summary>
    public EngineStatus Status => Volatile.Read(ref _status);

    /// <summary>Takes one turn: let go of who left, admit, schedule, run, sample and publish, then a slice of other work.</summary>
    /// <returns>Whether there is more to do.</returns>
    public bool Take()
    {
        long start = metrics.Now;
        Retire();
        Admit();
        IReadOnlyList<StepChunk> plan = scheduler.Plan();
        foreach (IReadOnlyList<StepChunk> pass in Passes(plan))
        {
            try
            {
                using Tensor? logits = runner.Run(pass);
                Publish(pass, logits);
            }
            catch (Exception error) when (error is not OutOfMemoryException)
            {
                // A fault of the computation is the pass's, not the server's.
                Fail(pass, error);
            }
        }

        Retire();
        Report(start, plan.Count);
        bool admissible = shelf.Advance();
        background.RunSlice(idle: plan.Count == 0);
        return plan.Count > 0 || admissible;
    }

    private void Admit()
    {
        foreach (RunningSequence sequence in scheduler.Waiting.ToArray())
        {
            try
            {
                if (sequence.Request.Adapter is { } name && sequence.Adapter is null)
                {
                    // Who waits for its adapter does not hold up others.
                    sequence.Adapter = shelf.TryTake(name, sequence);
                    if (sequence.Adapter is null)
                    {
                        continue;
                    }
                }

                sequence.ContentKey = sequence.Adapter?.Content ?? PrefixKey.Start([]);
                if (!scheduler.TryAdmit(sequence))
                {
                    return;
                }

                if (sequence.Times.Admitted == 0)
                {
                    waiting.Leave();
                }

                metrics.Admitted(sequence);
                _status = _status with { SharedTokens = _status.SharedTokens + sequence.Blocks.Computed };
            }
            catch (Exception error) when (error is not OutOfMemoryException)
            {
                sequence.Fail(error);
            }
        }
    }

    // One pass for all; an adapter that replaces norms or other parameters of the whole model has a pass of its own, and
    // where frequencies depend on the length every sequence has.
    private IEnumerable<IReadOnlyList<StepChunk>> Passes(IReadOnlyList<StepChunk> plan)
    {
        if (alone)
        {
            return plan.Select(c => new[] { c });
        }

        return plan.OrderBy(c => c.Sequence.Adapter?.Adapter.Name, StringComparer.Ordinal)
            .GroupBy(c => c.Sequence.Adapter is { NeedsOwnPass: true } own ? own : null)
            .Select(g => g.ToArray());
    }

    private unsafe void Publish(IReadOnlyList<StepChunk> pass, Tensor? logits)
    {
        using var scope = NewDisposeScope();
        int[]? chosen = logits is null ? null : LargestOnDevice(pass, logits);
        Tensor? host = chosen is null ? logits?.to(ScalarType.Float32).cpu().contiguous() : null;
        int v = host is null ? 0 : checked((int)host.shape[1]);
        float* row = host is null ? null : (float*)AtenTensor.DataPointer(host);
        int generated = 0, prompt = 0;
        foreach (StepChunk chunk in pass)
        {
            RunningSequence sequence = chunk.Sequence;
            int rows = chunk.LogitRows, top = sequence.Request.LogProbabilities ?? 0;
            for (int i = 0; i < rows; i++, row += v)
            {
                float* at = row;
                sequence.ScorePrompt(chunk.Start + chunk.Count - rows + i, token => TokenScores.Of(new ReadOnlySpan<float>(at, v), token, top));
            }

            sequence.Blocks.Advance(chunk.Count, sequence.TokenSpan);
            if (chunk.Count > 1 || sequence.Times.FirstToken == 0)
            {
                prompt += chunk.Count;
                metrics.Computed(sequence, chunk.Count);
            }

            if (chunk.ReachesEnd)
            {
                ReadOnlySpan<float> last = chosen is null ? new(row - v, v) : [];
                int token = chosen is null ? sequence.Sampler.Next(last) : chosen[generated];
                if (chosen is not null)
                {
                    sequence.Sampler.Accept(token);
                }

                sequence.Accept(token, sequence.Request.LogProbabilities is null ? null : TokenScores.Of(last, token, top));
                metrics.Generated(sequence);
                generated++;
            }
        }

        _status = _status with { GeneratedTokens = _status.GeneratedTokens + generated, PromptTokens = _status.PromptTokens + prompt, Steps = _status.Steps + 1 };
    }

    // Where everybody wants the largest logit and nothing else, the logits of a large vocabulary stay on the device.
    private static int[]? LargestOnDevice(IReadOnlyList<StepChunk> pass, Tensor logits) =>
        logits.device_type == DeviceType.CUDA && pass.All(c => c.Sequence.Request is { LogProbabilities: null, Options.Sampling.IsGreedy: true })
            ? [.. logits.argmax(-1).to(ScalarType.Int32).cpu().data<int>()]
            : null;

    private static void Fail(IReadOnlyList<StepChunk> pass, Exception error)
    {
        foreach (StepChunk chunk in pass)
        {
            chunk.Sequence.Fail(new EngineFailureException(error));
        }
    }

    // Blocks and adapters of who has ended or left are free at once.
    private void Retire()
    {
        foreach (RunningSequence sequence in scheduler.Running.Concat(scheduler.Waiting).Where(s => s.IsCancelled))
        {
            sequence.Fail(new OperationCanceledException());
        }

        foreach (RunningSequence sequence in scheduler.RemoveEnded())
        {
            if (sequence.Times.Admitted == 0)
            {
                waiting.Leave();
            }

            if (sequence.Adapter is { } version)
            {
                shelf.Return(version);
                sequence.Adapter = null;
            }

            metrics.Ended(sequence);
        }
    }

    private void Report(long start, int batch)
    {
        if (batch > 0)
        {
            metrics.Step(start, batch);
            background.Served(metrics.ElapsedSince(start));
        }

        long preempted = scheduler.Preemptions - _status.Preemptions;
        if (preempted > 0)
        {
            metrics.Preempted(preempted);
        }

        Volatile.Write(ref _status, _status with
        {
            Running = scheduler.Running.Count,
            Waiting = scheduler.Waiting.Count,
            CachedTokens = scheduler.Running.Sum(s => (long)s.Blocks.Computed),
            Preemptions = scheduler.Preemptions,
            Blocks = new BlockUse(pool.Count, pool.Used, pool.Idle),
            Adapters = shelf.Use,
            TrainingShare = background.Share,
        });
    }

    /// <summary>Lets everybody go, with an error for who is not done.</summary>
    public void End(Exception stopped)
    {
        foreach (RunningSequence sequence in scheduler.Running.Concat(scheduler.Waiting))
        {
            sequence.Fail(stopped);
        }

        Retire();
    }
}
