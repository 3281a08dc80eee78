using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Serving;

/// <summary>
/// Serves one base model with many adapters: requests come from any thread, one thread owns every tensor. Sequences join
/// and leave the batch between steps; one batch mixes the base with any adapters, each at its own rank.
/// </summary>
/// <remarks>
/// A sequence has random numbers of its own and attends to its own cache, so what else is in the batch changes its logits
/// by rounding only (matrix products of another height; ≤ 1e-4 in float32, tested).
/// </remarks>
public sealed class InferenceEngine : IDisposable
{
    private readonly CausalLanguageModel _model;
    private readonly AdapterSet _adapters;
    private readonly Tokenizer? _tokenizer;
    private readonly EngineLimits _limits;
    private readonly AdapterShelf _shelf;
    private readonly BlockingCollection<Action> _commands = [];
    private readonly LinkedList<RunningSequence> _waiting = new();
    private readonly List<RunningSequence> _running = [];
    private readonly Thread _thread;
    private readonly int _maxLength;
    private int _queued;
    private volatile bool _stopping;
    private volatile IReadOnlyList<AdapterInfo> _infos = [];
    private EngineStatus _status = new(0, 0, 0, 0, 0, 0);

    /// <summary>Starts the engine's thread. The model stays the caller's and must not be used elsewhere meanwhile.</summary>
    /// <param name="model">The base, built with adapters attachable.</param>
    /// <param name="adapters">The model's.</param>
    /// <param name="tokenizer">Gives texts and finds stop strings; null for token ids only.</param>
    /// <param name="open">Opens an adapter by the name or path a user gives.</param>
    /// <param name="limits">Bounds.</param>
    /// <param name="positions">Longest sequence the model was made for; 0 for none known.</param>
    public InferenceEngine(CausalLanguageModel model, AdapterSet adapters, Tokenizer? tokenizer, Func<string, AdapterFolder> open, EngineLimits limits, int positions = 0)
    {
        ArgumentNullException.ThrowIfNull(limits);
        _model = model;
        _adapters = adapters;
        _tokenizer = tokenizer;
        _limits = limits;
        _shelf = new AdapterShelf(adapters, open, limits.MaxLoadedAdapters);
        int most = positions > 0 ? positions : int.MaxValue;
        _maxLength = limits.MaxLength > 0 ? Math.Min(limits.MaxLength, most) : most;
        _thread = new Thread(Loop) { Name = "LoraSharp engine", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Registered adapters.</summary>
    public IReadOnlyList<AdapterInfo> Adapters => _infos;

    /// <summary>Where the engine stands.</summary>
    public EngineStatus Status => Volatile.Read(ref _status);

    /// <summary>Its bounds.</summary>
    public EngineLimits Limits => _limits;

    /// <summary>Longest sequence, prompt and answer.</summary>
    public int MaxLength => _maxLength;

    /// <summary>Registers an adapter; it is read when first asked for.</summary>
    public Task RegisterAsync(string name, string path) => Run(() =>
    {
        _shelf.Register(name, path);
        return true;
    });

    /// <summary>Loads an adapter under a name, new or replacing another. Sequences that run on the old one finish on it.</summary>
    /// <exception cref="LoraSharpException">It cannot be read or does not fit the base; what was there before stays.</exception>
    public Task<AdapterInfo> LoadAsync(string name, string path) => Run(() => _shelf.Load(name, path));

    /// <summary>Takes an adapter away. Sequences that run on it finish.</summary>
    /// <exception cref="UnknownAdapterException">There is none of this name.</exception>
    public Task UnloadAsync(string name) => Run(() =>
    {
        _shelf.Unload(name);
        return true;
    });

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
            throw new EngineBusyException($"{_limits.MaxWaiting} requests wait already. Try again later.");
        }

        using var left = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        var sequence = new RunningSequence(request, _tokenizer, left.Token) { Room = room };
        _commands.Add(() => _waiting.AddLast(sequence), CancellationToken.None);
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
        }
    }

    /// <summary>Ends the thread after the step it is in; requests that are under way fail.</summary>
    public void Dispose()
    {
        if (!_stopping)
        {
            _stopping = true;
            _commands.Add(() => { });
            _thread.Join();
            _commands.Dispose();
        }
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

    private Task<T> Run<T>(Func<T> work)
    {
        var done = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        _commands.Add(() =>
        {
            try
            {
                T result = work();
                _infos = _shelf.Infos;
                done.SetResult(result);
            }
            catch (Exception error)
            {
                done.SetException(error);
            }
        });
        return done.Task;
    }

    private void Loop()
    {
        // Gradients are a setting of the thread.
        using IDisposable frozen = no_grad();
        while (!_stopping)
        {
            bool idle = _running.Count == 0 && _waiting.Count == 0;
            while (!_stopping && _commands.TryTake(out Action? command, idle ? Timeout.Infinite : 0))
            {
                command();
                idle = false;
            }

            if (!_stopping)
            {
                Step();
            }
        }

        foreach (RunningSequence sequence in _running.Concat(_waiting))
        {
            sequence.Fail(new LoraSharpException("The server is shutting down."));
            Free(sequence);
        }
    }

    /// <summary>One turn: let go of what was cancelled, admit, run one token of everything that runs.</summary>
    private void Step()
    {
        DropCancelled();
        Admit();
        foreach (IReadOnlyList<RunningSequence> group in Groups())
        {
            try
            {
                Decode(group);
            }
            catch (Exception error) when (error is not OutOfMemoryException)
            {
                // A fault of the computation is the group's, not the server's.
                foreach (RunningSequence sequence in group)
                {
                    sequence.Fail(new LoraSharpException($"The model failed: {error.Message}", error));
                }
            }
        }

        Retire();
        EngineStatus before = _status;
        Volatile.Write(ref _status, before with { Running = _running.Count, Waiting = _waiting.Count, CachedTokens = _running.Sum(s => (long)s.Tokens.Count) });
    }

    private void DropCancelled()
    {
        for (LinkedListNode<RunningSequence>? node = _waiting.First; node is not null;)
        {
            LinkedListNode<RunningSequence>? next = node.Next;
            if (node.Value.IsCancelled)
            {
                _waiting.Remove(node);
                Interlocked.Decrement(ref _queued);
                node.Value.Fail(new OperationCanceledException());
            }

            node = next;
        }

        foreach (RunningSequence sequence in _running.Where(s => s.IsCancelled))
        {
            sequence.Fail(new OperationCanceledException());
        }

        Retire();
    }

    // Each newcomer's prompt is run at once and gives its first token; from then on it is decoded with the others.
    private void Admit()
    {
        while (_waiting.First is { } node && _running.Count < _limits.MaxBatch)
        {
            RunningSequence sequence = node.Value;
            long held = _running.Sum(s => (long)s.Request.Prompt.Count + s.Room);
            if (_running.Count > 0 && held + sequence.Request.Prompt.Count + sequence.Room > _limits.CacheTokens)
            {
                return;
            }

            _waiting.RemoveFirst();
            Interlocked.Decrement(ref _queued);
            try
            {
                sequence.Adapter = sequence.Request.Adapter is { } name ? _shelf.Take(name) : null;
                _infos = sequence.Adapter is null ? _infos : _shelf.Infos;
                Prefill(sequence);
                _running.Add(sequence);
            }
            catch (Exception error) when (error is not OutOfMemoryException)
            {
                sequence.Fail(error);
                Free(sequence);
            }
        }

        Retire();
    }

    private void Prefill(RunningSequence sequence)
    {
        using var scope = NewDisposeScope();
        int length = sequence.Tokens.Count;
        sequence.Cache?.Dispose();
        sequence.Cache = new KeyValueCache(_model.LayerCount, null, Math.Min(length + sequence.Room, 512));
        Tensor ids = tensor(sequence.Tokens.Select(t => (long)t).ToArray(), device: _model.Device).unsqueeze(0);
        using IDisposable selected = _adapters.Use(Selection([sequence], length));
        Tensor hidden = _model.Hidden(ids, arange(length, ScalarType.Int64, _model.Device).unsqueeze(0), sequence.Cache);
        if (sequence.Request is { PromptLogProbabilities: true, LogProbabilities: { } top } && length == sequence.Request.Prompt.Count)
        {
            sequence.PromptScores = PromptScores(sequence, hidden, top);
        }

        // The head may be adapted too: its rows are one now.
        using IDisposable last = _adapters.Use(Selection([sequence], 1));
        Tensor logits = _model.Logits(hidden.narrow(1, length - 1, 1)).view(1, -1);
        Choose([sequence], logits);
        _status = _status with { PromptTokens = _status.PromptTokens + length, Steps = _status.Steps + 1 };
    }

    private void Decode(IReadOnlyList<RunningSequence> group)
    {
        // Where positions of old tokens change with the length (dynamic RoPE), the cache is made anew.
        foreach (RunningSequence stale in group.Where(s => _model.InvalidatesCache(s.Cache!.Length, s.Tokens.Count)))
        {
            Prefill(stale);
        }

        RunningSequence[] rows = [.. group.Where(s => s.Cache!.Length == s.Tokens.Count - 1 && !s.HasEnded)];
        if (rows.Length == 0)
        {
            return;
        }

        using var scope = NewDisposeScope();
        Tensor ids = tensor(rows.Select(s => (long)s.Tokens[^1]).ToArray(), [rows.Length, 1], device: _model.Device);
        Tensor positions = tensor(rows.Select(s => (long)s.Tokens.Count - 1).ToArray(), [rows.Length, 1], device: _model.Device);
        using IDisposable selected = _adapters.Use(Selection(rows, 1));
        Tensor logits = _model.Forward(ids, positions, new SequenceBatchAttention([.. rows.Select(s => s.Cache!)])).view(rows.Length, -1);
        Choose(rows, logits);
        _status = _status with { Steps = _status.Steps + 1 };
    }

    private unsafe void Choose(IReadOnlyList<RunningSequence> rows, Tensor logits)
    {
        using var scope = NewDisposeScope();
        Tensor host = logits.to(ScalarType.Float32).cpu().contiguous();
        int v = checked((int)host.shape[1]);
        float* start = (float*)AtenTensor.DataPointer(host);
        for (int i = 0; i < rows.Count; i++)
        {
            var row = new ReadOnlySpan<float>(start + ((long)i * v), v);
            int token = rows[i].Sampler.Next(row);
            rows[i].Accept(token, rows[i].Request.LogProbabilities is { } top ? Score(row, token, top) : null);
        }

        _status = _status with { GeneratedTokens = _status.GeneratedTokens + rows.Count };
    }

    private unsafe List<TokenScore> PromptScores(RunningSequence sequence, Tensor hidden, int top)
    {
        var scores = new List<TokenScore> { new(sequence.Tokens[0], null, []) };
        for (int i = 0; i + 1 < sequence.Request.Prompt.Count; i++)
        {
            using var scope = NewDisposeScope();
            using IDisposable one = _adapters.Use(Selection([sequence], 1));
            Tensor host = _model.Logits(hidden.narrow(1, i, 1)).view(-1).to(ScalarType.Float32).cpu().contiguous();
            scores.Add(Score(new ReadOnlySpan<float>((void*)AtenTensor.DataPointer(host), checked((int)host.NumberOfElements)), sequence.Tokens[i + 1], top));
        }

        return scores;
    }

    private static TokenScore Score(ReadOnlySpan<float> logits, int token, int top)
    {
        double largest = double.NegativeInfinity;
        foreach (float logit in logits)
        {
            largest = Math.Max(largest, logit);
        }

        double sum = 0;
        foreach (float logit in logits)
        {
            sum += Math.Exp(logit - largest);
        }

        double log = largest + Math.Log(sum);
        var best = new PriorityQueue<int, float>();
        for (int i = 0; i < logits.Length && top > 0; i++)
        {
            if (best.Count < top)
            {
                best.Enqueue(i, logits[i]);
            }
            else if (best.TryPeek(out _, out float least) && logits[i] > least)
            {
                best.DequeueEnqueue(i, logits[i]);
            }
        }

        var ranked = new List<(int, double)>();
        while (best.TryDequeue(out int id, out float logit))
        {
            ranked.Insert(0, (id, logit - log));
        }

        return new TokenScore(token, logits[token] - log, ranked);
    }

    private static AdapterSelection Selection(IReadOnlyList<RunningSequence> rows, long each) =>
        AdapterSelection.ForRows(rows.Select(s => new RowSegment(each, s.Adapter?.Adapter)));

    // One batch for all; an adapter that replaces norms or other parameters of the whole model has a pass of its own.
    private IEnumerable<IReadOnlyList<RunningSequence>> Groups()
    {
        RunningSequence[] active = [.. _running.Where(s => !s.HasEnded)];
        RunningSequence[] mixed = [.. active.Where(s => s.Adapter?.Adapter.Parameters.Count is null or 0).OrderBy(s => s.Adapter?.Adapter.Name, StringComparer.Ordinal)];
        if (mixed.Length > 0)
        {
            yield return mixed;
        }

        foreach (IGrouping<AdapterVersion, RunningSequence> own in active.Where(s => s.Adapter?.Adapter.Parameters.Count > 0).GroupBy(s => s.Adapter!))
        {
            yield return [.. own];
        }
    }

    private void Retire()
    {
        for (int i = _running.Count - 1; i >= 0; i--)
        {
            if (_running[i].HasEnded)
            {
                Free(_running[i]);
                _running.RemoveAt(i);
            }
        }
    }

    private void Free(RunningSequence sequence)
    {
        sequence.Cache?.Dispose();
        sequence.Cache = null;
        if (sequence.Adapter is { } version)
        {
            _shelf.Return(version);
            sequence.Adapter = null;
        }
    }
}
