using System.Runtime.CompilerServices;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Models;
using LoraSharp.Serving.Cache;
using LoraSharp.Serving.Cuda;
using LoraSharp.Serving.Scheduling;
using LoraSharp.Serving.Shelf;
using LoraSharp.Tensors.Interop;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Serving;

/// <summary>
/// Serves one base model with many adapters: requests come from any thread, one thread owns every tensor. Sequences join
/// and leave the batch between steps; one batch mixes the base with any adapters, each at its own rank.
/// </summary>
/// <remarks>
/// A sequence has random numbers of its own and attends to its own blocks, so what else is in the batch changes its logits
/// by rounding only (matrix products of another height; ≤ 1e-4 in float32, tested).
/// </remarks>
public sealed partial class InferenceEngine : IDisposable
{
    private readonly CausalLanguageModel _model;
    private readonly AdapterSet _adapters;
    private readonly Tokenizer? _tokenizer;
    private readonly EngineLimits _limits;
    private readonly AdapterShelf _shelf;
    private readonly EngineInbox _inbox = new();
    private readonly BlockPool _pool;
    private readonly StepScheduler _scheduler;
    private readonly IStepRunner _runner;
    private readonly BackgroundQueue _background;
    private readonly Thread _thread;
    private readonly bool _whole;
    private readonly int _maxLength;
    private int _queued;
    private volatile bool _stopping;
    private EngineStatus _status = new(0, 0, 0, 0, 0, 0);

    /// <summary>Starts the engine's thread. The model stays the caller's and must not be used elsewhere meanwhile.</summary>
    /// <param name="model">The base, built with adapters attachable.</param>
    /// <param name="adapters">The model's.</param>
    /// <param name="tokenizer">Gives texts and finds stop strings; null for token ids only.</param>
    /// <param name="open">Opens an adapter by the name or path a user gives; called on other threads.</param>
    /// <param name="limits">Bounds.</param>
    /// <param name="positions">Longest sequence the model was made for; 0 for none known.</param>
    /// <param name="clock">For metrics and shares of time; null for the system's.</param>
    /// <param name="notes">Told, once, when a faster way that the limits ask for cannot be gone.</param>
    /// <exception cref="LoraSharpException">Limits out of range.</exception>
    public InferenceEngine(CausalLanguageModel model, AdapterSet adapters, Tokenizer? tokenizer, Func<string, AdapterFolder> open, EngineLimits limits, int positions = 0, TimeProvider? clock = null, Action<string>? notes = null)
        : this(model, adapters, tokenizer, open, limits, positions, clock, (plain, cache, longest) => Runner(plain, model, adapters, cache, limits, longest, notes ?? (_ => { })))
    {
    }

    /// <summary>With a runner of the steps of its own, made from the plain one, the cache and the longest sequence.</summary>
    internal InferenceEngine(CausalLanguageModel model, AdapterSet adapters, Tokenizer? tokenizer, Func<string, AdapterFolder> open, EngineLimits limits, int positions, TimeProvider? clock, Func<IStepRunner, PagedCache, int, IStepRunner> runner)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(limits);
        clock ??= TimeProvider.System;
        _model = model;
        _adapters = adapters;
        _tokenizer = tokenizer;
        _limits = limits.Validate();
        int most = positions > 0 ? positions : int.MaxValue;
        most = limits.MaxLength > 0 ? Math.Min(limits.MaxLength, most) : most;
        int blocks = limits.Blocks(model.Config, model.DType, most);
        _maxLength = (int)Math.Min(most, (long)blocks * limits.BlockSize);
        _whole = model.PositionsDependOnLength;
        _pool = new BlockPool(blocks);
        _scheduler = new StepScheduler(_pool, limits, _whole, model.InvalidatesCache);
        var cache = new PagedCache(model.LayerCount, blocks, limits.BlockSize);
        _runner = runner(new ModelStepRunner(model, adapters, cache), cache, _maxLength);
        _background = new BackgroundQueue(clock);
        Metrics = new EngineMetrics(() => Status, clock);
        _shelf = new AdapterShelf(adapters, open, limits, work => _inbox.Post(work), Metrics, clock, model.Device.type == DeviceType.CPU);
        WorkerThreads.Release();
        _thread = new Thread(Loop) { Name = "LoraSharp engine", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Registered adapters, by name.</summary>
    public IReadOnlyList<AdapterInfo> Adapters => [.. _shelf.Infos.Values];

    /// <summary>Where the engine stands.</summary>
    public EngineStatus Status => Volatile.Read(ref _status);

    /// <summary>Its bounds.</summary>
    public EngineLimits Limits => _limits;

    /// <summary>What it tells of itself to whoever listens.</summary>
    public EngineMetrics Metrics { get; }

    /// <summary>Longest sequence, prompt and answer.</summary>
    public int MaxLength => _maxLength;

    /// <summary>The registered adapter of this name; null for none. Costs the same however many there are.</summary>
    public AdapterInfo? FindAdapter(string name) => _shelf.Infos.GetValueOrDefault(name);

    /// <summary>Registers an adapter; it is read when first asked for.</summary>
    public Task RegisterAsync(string name, string path) => _inbox.Run(() =>
    {
        _shelf.Register(name, path);
        return true;
    });

    /// <summary>
    /// Loads an adapter under a name, new or replacing another, while others go on. Sequences that run on the old one finish
    /// on it.
    /// </summary>
    /// <exception cref="LoraSharpException">It cannot be read or does not fit the base; what was there before stays.</exception>
    public Task<AdapterInfo> LoadAsync(string name, string path) => _inbox.Run(() => _shelf.LoadAsync(name, path)).Unwrap();

    /// <summary>Sees to it that a registered adapter is ready before it is asked for.</summary>
    /// <exception cref="UnknownAdapterException">There is none of this name.</exception>
    /// <exception cref="LoraSharpException">It cannot be read or does not fit the base.</exception>
    public Task<AdapterInfo> WarmAsync(string name) => _inbox.Run(() => _shelf.WarmAsync(name)).Unwrap();

    /// <summary>Keeps an adapter in memory once it is there, whatever else is asked for; or lets it make room again.</summary>
    /// <exception cref="UnknownAdapterException">There is none of this name.</exception>
    public Task PinAsync(string name, bool pinned = true) => _inbox.Run(() =>
    {
        _shelf.Pin(name, pinned);
        return true;
    });

    /// <summary>
    /// Merged mode: folds an adapter into a copy of the weights it changes, so that its requests run as fast as the base's;
    /// it is loaded if need be, and pinned. One at a time: another takes its place. The base's own weights are not touched,
    /// and requests for the base or other adapters go on beside it, in passes of their own.
    /// </summary>
    /// <exception cref="UnknownAdapterException">There is none of this name.</exception>
    /// <exception cref="LoraSharpException">It cannot be read or does not fit the base.</exception>
    public async Task<AdapterInfo> MergeAsync(string name)
    {
        await WarmAsync(name).ConfigureAwait(false);
        return await _inbox.Run(() => _shelf.Merge(name)!).ConfigureAwait(false);
    }

    /// <summary>Ends merged mode: the copy is freed. The base is what it was to the bit, since it was never changed.</summary>
    public Task UnmergeAsync() => _inbox.Run(() => _shelf.Merge(null));

    /// <summary>Takes an adapter away. Sequences that run on it finish.</summary>
    /// <exception cref="UnknownAdapterException">There is none of this name.</exception>
    public Task UnloadAsync(string name) => _inbox.Run(() =>
    {
        _shelf.Unload(name);
        return true;
    });

    /// <summary>
    /// Does other work on the same model in slices between the steps: all the time while nobody waits for tokens, and its
    /// share of it while someone does. One work after the other.
    /// </summary>
    /// <param name="create">Makes the work, on the engine's thread.</param>
    /// <param name="share">Its share of the time while requests run, above 0, at most 1.</param>
    /// <param name="cancellation">Ends it between two slices.</param>
    public Task RunBesideAsync(Func<IBackgroundWork> create, double share, CancellationToken cancellation = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(share);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(share, 1);
        return _inbox.Run(() => _background.Add(create, share, cancellation)).Unwrap();
    }

    /// <summary>Generates; the sequence ends early when the enumeration is left or cancelled.</summary>
    /// <exception cref="EngineBusyException">Too many requests wait.</exception>
    /// <exception cref="UnknownAdapterException">The adapter is not registered.</exception>
    /// <exception cref="LoraSharpException">The prompt is empty, too long, or has ids outside the vocabulary; the adapter cannot be loaded.</exception>
    public async IAsyncEnumerable<TokenUpdate> GenerateAsync(InferenceRequest request, [EnumeratorCancellation] CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        int room = Room(request);
        if (Interlocked.Increment(ref _queued) > _limits.MaxWaiting)
        {
            Interlocked.Decrement(ref _queued);
            Metrics.Refused(request);
            throw new EngineBusyException($"{_limits.MaxWaiting} requests wait already. Try again later.");
        }

        using var left = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        bool share = _limits.PrefixCache && !_whole && !request.PromptLogProbabilities;
        var sequence = new RunningSequence(request, _tokenizer, new SequenceBlocks(_pool, _limits.BlockSize, share), left.Token) { Room = room };
        Metrics.Arrived(sequence);
        _inbox.Post(() => _scheduler.Add(sequence), sequence.Fail);
        try
        {
            await foreach (TokenUpdate update in sequence.Updates.Reader.ReadAllAsync(cancellation).ConfigureAwait(false))
            {
                yield return update;
            }
        }
        finally
        {
            await left.CancelAsync().ConfigureAwait(false);
            _inbox.Post(() => { });
        }
    }

    /// <summary>Ends the thread after the step it is in; requests that are under way fail.</summary>
    public void Dispose()
    {
        if (!_stopping)
        {
            // Closed first, so that nobody's request falls between the last look into the inbox and the end.
            _inbox.Close();
            _stopping = true;
            _thread.Join();
            Metrics.Dispose();
        }
    }

    private static IStepRunner Runner(IStepRunner plain, CausalLanguageModel model, AdapterSet adapters, PagedCache cache, EngineLimits limits, int longest, Action<string> notes)
    {
        if (!limits.FusedDecode || model.Device.type != DeviceType.CUDA)
        {
            return plain;
        }

        if (CudaStepRunner.Obstacle(model, adapters) is { } obstacle)
        {
            notes($"The fused decoder is not used: {obstacle}.");
            return plain;
        }

        return CudaStepRunner.Over(plain, model, adapters, cache, limits, longest, notes);
    }

    private int Room(InferenceRequest request)
    {
        request.Options.Validate();
        int[] outside = [.. request.Prompt.Where(id => id < 0 || id >= _model.Config.VocabularySize).Take(1)];
        if (request.Prompt.Count == 0 || outside.Length > 0)
        {
            throw new LoraSharpException(request.Prompt.Count == 0 ? "The prompt has no tokens." : $"Token id {outside[0]} of the prompt is outside the vocabulary of {_model.Config.VocabularySize}.");
        }

        int left = _maxLength - request.Prompt.Count;
        return left >= 1
            ? Math.Min(left, request.Options.MaxTokens)
            : throw new LoraSharpException($"The prompt has {request.Prompt.Count} tokens; the model's context is {_maxLength}. Shorten it.");
    }

    private void Loop()
    {
        // Gradients are a setting of the thread.
        using IDisposable frozen = no_grad();
        bool busy = false;
        while (!_stopping)
        {
            _inbox.Work(wait: !busy);
            if (!_stopping)
            {
                busy = Step() || _shelf.HasWork || _background.HasWork;
            }
        }

        _inbox.Refuse();
        LoraSharpException stopped = EngineInbox.Stopped();
        foreach (RunningSequence sequence in _scheduler.Running.Concat(_scheduler.Waiting))
        {
            sequence.Fail(stopped);
        }

        Retire();
        _shelf.Stop(stopped);
        _background.Stop(stopped);
        _runner.Dispose();
    }

    /// <summary>One turn: let go of who left, admit, schedule, run, sample and publish, then a slice of other work.</summary>
    /// <returns>Whether there is more to do.</returns>
    private bool Step()
    {
        long start = Metrics.Now;
        Retire();
        Admit();
        IReadOnlyList<StepChunk> plan = _scheduler.Plan();
        foreach (IReadOnlyList<StepChunk> pass in Passes(plan))
        {
            try
            {
                using Tensor? logits = _runner.Run(pass);
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
        bool admissible = _shelf.Advance();
        _background.RunSlice(idle: plan.Count == 0);
        return plan.Count > 0 || admissible;
    }

    private void Admit()
    {
        foreach (RunningSequence sequence in _scheduler.Waiting.ToArray())
        {
            try
            {
                if (sequence.Request.Adapter is { } name && sequence.Adapter is null)
                {
                    // Who waits for its adapter does not hold up others.
                    sequence.Adapter = _shelf.TryTake(name, sequence);
                    if (sequence.Adapter is null)
                    {
                        continue;
                    }
                }

                sequence.ContentKey = sequence.Adapter?.Content ?? PrefixKey.Start([]);
                if (!_scheduler.TryAdmit(sequence))
                {
                    return;
                }

                if (sequence.Times.Admitted == 0)
                {
                    Interlocked.Decrement(ref _queued);
                }

                Metrics.Admitted(sequence);
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
        if (_whole)
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
                Metrics.Computed(sequence, chunk.Count);
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
                Metrics.Generated(sequence);
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
        foreach (RunningSequence sequence in _scheduler.Running.Concat(_scheduler.Waiting).Where(s => s.IsCancelled))
        {
            sequence.Fail(new OperationCanceledException());
        }

        foreach (RunningSequence sequence in _scheduler.RemoveEnded())
        {
            if (sequence.Times.Admitted == 0)
            {
                Interlocked.Decrement(ref _queued);
            }

            if (sequence.Adapter is { } version)
            {
                _shelf.Return(version);
                sequence.Adapter = null;
            }

            Metrics.Ended(sequence);
        }
    }

    private void Report(long start, int batch)
    {
        if (batch > 0)
        {
            Metrics.Step(start, batch);
            _background.Served(Metrics.ElapsedSince(start));
        }

        long preempted = _scheduler.Preemptions - _status.Preemptions;
        if (preempted > 0)
        {
            Metrics.Preempted(preempted);
        }

        Volatile.Write(ref _status, _status with
        {
            Running = _scheduler.Running.Count,
            Waiting = _scheduler.Waiting.Count,
            CachedTokens = _scheduler.Running.Sum(s => (long)s.Blocks.Computed),
            Preemptions = _scheduler.Preemptions,
            Blocks = new BlockUse(_pool.Count, _pool.Used, _pool.Idle),
            Adapters = _shelf.Use,
            TrainingShare = _background.Share,
        });
    }
}
