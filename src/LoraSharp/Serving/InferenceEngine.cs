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
    private readonly WaitingRoom _waiting;
    private readonly EngineTurn _turn;
    private volatile bool _stopping;

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
        // Whoever measures may come before the first turn.
        Metrics = new EngineMetrics(() => _turn?.Status ?? new(0, 0, 0, 0, 0, 0), clock);
        _shelf = new AdapterShelf(adapters, open, limits, work => _inbox.Post(work), Metrics, clock, model.Device.type == DeviceType.CPU);
        _waiting = new WaitingRoom(limits.MaxWaiting);
        _turn = new EngineTurn(_scheduler, _runner, _shelf, _background, _pool, Metrics, _waiting, _whole);
        WorkerThreads.Release();
        _thread = new Thread(Loop) { Name = "LoraSharp engine", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Registered adapters, by name.</summary>
    public IReadOnlyList<AdapterInfo> Adapters => [.. _shelf.Infos.Values];

    /// <summary>Where the engine stands.</summary>
    public EngineStatus Status => _turn.Status;

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
        if (!_waiting.TryEnter())
        {
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

        if (CudaStepRunner.Obstacle(model, adapters, longest) is { } obstacle)
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
                busy = _turn.Take() || _shelf.HasWork || _background.HasWork;
            }
        }

        _inbox.Refuse();
        LoraSharpException stopped = EngineInbox.Stopped();
        _turn.End(stopped);
        _shelf.Stop(stopped);
        _background.Stop(stopped);
        _runner.Dispose();
    }
}
