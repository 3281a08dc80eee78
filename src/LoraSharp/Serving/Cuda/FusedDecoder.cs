using System.Runtime.InteropServices;
using LoraSharp.Tensors.Cuda;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Serving.Cuda;

/// <summary>How large a <see cref="FusedDecoder"/> is.</summary>
internal sealed record DecoderOptions
{
    /// <summary>Most tokens of a step, prompts included.</summary>
    public int MaxTokens { get; init; } = 2048;

    /// <summary>Most sequences: rows of the table of pages, and most tokens chosen in a step.</summary>
    public int MaxSequences { get; init; } = 256;

    /// <summary>Pages of the cache.</summary>
    public required int Pages { get; init; }

    /// <summary>Tokens of a page.</summary>
    public int PageTokens { get; init; } = 16;

    /// <summary>Longest sequence.</summary>
    public required int MaxLength { get; init; }

    /// <summary>Adapters on the device.</summary>
    public int AdapterSlots { get; init; } = 64;

    /// <summary>Largest sum of ranks that a matrix's adapters may have (q, k and v together).</summary>
    public int MaxRank { get; init; } = 192;

    /// <summary>Capture decode steps in CUDA graphs.</summary>
    public bool Graphs { get; init; } = true;
}

/// <summary>One token of one sequence in a step.</summary>
/// <param name="Token">Its id.</param>
/// <param name="Position">Its place in its sequence.</param>
/// <param name="Sequence">Row of the table of pages.</param>
/// <param name="Slot">Adapter, or -1 for the base.</param>
internal readonly record struct DecoderRow(int Token, int Position, int Sequence, int Slot);

/// <summary>
/// Runs a Llama-shaped base in bf16 for many sequences at once on a GPU, each row on its own adapter: paged caches, the
/// adapters' products beside the base's on a second stream, added by the kernels that follow, tokens chosen on the
/// device, decode steps replayed from CUDA graphs at a ladder of batch sizes. <c>TextGenerator</c> is the reference.
/// </summary>
/// <remarks>
/// A prompt's tokens are rows like any other: each attends to the pages up to its own position, so prefill, chunks of it
/// and decoding may stand in one step. Runs on one thread, on a stream of its own.
/// </remarks>
internal sealed unsafe class FusedDecoder : IRowDecoder
{
    private static readonly int[] Ladder = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256];
    private readonly DecoderWeights _weights;
    private readonly DecoderOptions _options;
    private readonly Device _device;
    private readonly CudaModule _kernels;
    private readonly CudaStreamScope _stream;
    private readonly List<Tensor> _owned = [];
    private readonly Tensor?[][] _transposed;
    private readonly FourBitProduct? _fourBit;
    private readonly Tensor _headTransposed;
    private readonly Tensor[] _keys;
    private readonly Tensor[] _values;
    private readonly Dictionary<(int Rows, int Parts, bool Adapters, bool Advance), CudaGraph> _graphs = [];
    private readonly HashSet<(int Rows, int Parts, bool Adapters, bool Advance)> _warm = [];
    private readonly int _pagesOfSequence;
    private readonly string _attend;
    private readonly int _group;
    private long[] _ranks = [0, 0, 0, 0];
    private (int Rows, int Longest, bool Adapters) _batch;
    private readonly nint _side;
    private readonly nint _forked;
    private readonly nint _joined;

    // Inputs of a step, at fixed addresses.
    private readonly Tensor _tokens;
    private readonly Tensor _positions;
    private readonly Tensor _sequences;
    private readonly Tensor _slots;
    private readonly Tensor _pages;
    private readonly Tensor _chosenRows;
    private readonly Tensor _temperatures;
    private readonly Tensor _seeds;

    // Buffers of a step.
    private readonly Tensor _x;
    private readonly Tensor _y;
    private readonly Tensor _qkv;
    private readonly Tensor _attention;
    private readonly Tensor _delta;
    private readonly Tensor _gateUp;
    private readonly Tensor _activation;
    private readonly Tensor _projected;
    private readonly Tensor _extra;
    private readonly Tensor _partial;
    private readonly Tensor _arrived;
    private readonly Tensor _last;
    private readonly Tensor _logits;
    private readonly Tensor _chosen;
    private readonly Tensor _logProbabilities;

    /// <summary>Makes the buffers of a step.</summary>
    /// <param name="weights">The base.</param>
    /// <param name="options">Sizes.</param>
    /// <param name="device">A GPU.</param>
    /// <param name="cache">Keys and values of each layer [pages · tokens of a page, kv, e] bf16, somebody else's; null for a cache of its own.</param>
    public FusedDecoder(DecoderWeights weights, DecoderOptions options, Device device, IReadOnlyList<(Tensor Keys, Tensor Values)>? cache = null)
    {
        _weights = weights;
        _options = options;
        _device = device;
        Models.LlamaShape s = weights.Shape;
        _group = (int)(s.Heads / s.KeyHeads);
        _attend = AttentionKernel(s) ?? throw new ArgumentException($"No attention kernel for heads of {s.HeadSize}, {_group} a key head.", nameof(weights));
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        TorchSharp.torch.cuda.synchronize();
        int index = Math.Max(device.index, 0);
        _kernels = CudaModule.Shared("fused_decode", index);
        _stream = new CudaStreamScope(index);
        CudaDriver.Check(CudaDriver.cuStreamCreate(out _side, 1), "make a stream");
        CudaDriver.Check(CudaDriver.cuEventCreate(out _forked, 2), "make an event");
        CudaDriver.Check(CudaDriver.cuEventCreate(out _joined, 2), "make an event");
        Adapters = new DecoderAdapters(weights, options.AdapterSlots, device);
        _transposed = [.. weights.Matrices.Select(layer => layer.Select(m => m.Dense is { } dense ? Own(dense.t()) : null).ToArray())];
        FourBitMatrix[] packed = [.. weights.Matrices.SelectMany(layer => layer).Select(m => m.FourBit).OfType<FourBitMatrix>()];
        _fourBit = packed.Length == 0 ? null : new FourBitProduct(packed, options.MaxTokens, device);
        _headTransposed = Own(weights.Head.t());
        long[] page = [(long)options.Pages * options.PageTokens, s.KeyHeads, s.HeadSize];
        _keys = [.. weights.Matrices.Select((_, l) => cache?[l].Keys ?? Half(page))];
        _values = [.. weights.Matrices.Select((_, l) => cache?[l].Values ?? Half(page))];
        _pagesOfSequence = (options.MaxLength + options.PageTokens - 1) / options.PageTokens;
        int n = options.MaxTokens;
        int c = options.MaxSequences;
        _tokens = Own(zeros([n], ScalarType.Int32, device));
        _positions = Own(full([n], -1, ScalarType.Int32, device));
        _sequences = Own(zeros([n], ScalarType.Int32, device));
        _slots = Own(full([n], -1, ScalarType.Int32, device));
        _pages = Own(zeros([c, _pagesOfSequence], ScalarType.Int32, device));
        _chosenRows = Own(arange(c, ScalarType.Int32, device));
        // The bits of float32 numbers: they come with integers in one copy.
        _temperatures = Own(zeros([c], ScalarType.Int32, device));
        _seeds = Own(zeros([c], ScalarType.Int32, device));
        _x = Half(n, s.Size);
        _y = Half(n, s.Size);
        _qkv = Half(n, (s.Heads + (2 * s.KeyHeads)) * s.HeadSize);
        _attention = Half(n, s.Heads * s.HeadSize);
        _delta = Half(n, s.Size);
        _gateUp = Half(n, 2 * s.Inner);
        _activation = Half(n, s.Inner);
        _projected = Own(zeros([n, options.MaxRank], ScalarType.Float32, device));
        _extra = Half(n, Math.Max(2 * s.Inner, _qkv.shape[1]));
        _partial = Own(zeros([MostParts * Ladder[^1] * s.Heads * (s.HeadSize + 2) / 4], ScalarType.Float32, device));
        _arrived = Own(zeros([n * s.KeyHeads], ScalarType.Int32, device));
        _last = Half(c, s.Size);
        _logits = Half(c, s.Vocabulary);
        _chosen = Own(zeros([c], ScalarType.Int32, device));
        _logProbabilities = Own(zeros([c], ScalarType.Float32, device));
        _stream.Synchronize();
    }

    /// <summary>Most parts that attention's tokens are split into: few rows alone would leave the device idle.</summary>
    private const int MostParts = 32;

    /// <summary>Adapters on the device; after a change call <see cref="AdaptersChanged"/>.</summary>
    public DecoderAdapters Adapters { get; }

    /// <summary>Why a shape has no kernel; null when it has.</summary>
    public static string? AttentionKernel(Models.LlamaShape shape)
    {
        long group = shape.Heads / shape.KeyHeads;
        return shape.HeadSize is 32 or 64 or 96 or 128 && group <= 8 ? $"attend_{shape.HeadSize}_{(group <= 4 ? 4 : 8)}" : null;
    }

    /// <summary>Graphs hold the largest rank: those of another are captured anew.</summary>
    public void AdaptersChanged()
    {
        long[] ranks = Adapters.LargestRanks;
        if (ranks.Max() > _options.MaxRank)
        {
            throw new ArgumentException($"An adapter's ranks add up to {ranks.Max()} in one matrix; the decoder was made for {_options.MaxRank}.");
        }

        if (!ranks.SequenceEqual(_ranks))
        {
            _ranks = ranks;
            DropGraphs();
        }
    }

    /// <inheritdoc/>
    public int MaxRank => _options.MaxRank;

    /// <inheritdoc/>
    public int MaxTokens => _options.MaxTokens;

    /// <inheritdoc/>
    public int MaxSequences => _options.MaxSequences;

    /// <inheritdoc/>
    public int Slots => Adapters.Slots;

    /// <inheritdoc/>
    public void LoadAdapter(int slot, Func<int, string, LowRankPair?> find)
    {
        // What still runs may read the slot's tensors.
        _stream.Synchronize();
        Adapters.Load(slot, find);
        AdaptersChanged();
    }

    /// <inheritdoc/>
    public void SetPages(int[] pages, int width)
    {
        ArgumentNullException.ThrowIfNull(pages);
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        _pages.narrow(0, 0, pages.Length / width).narrow(1, 0, width).copy_(tensor(pages, [pages.Length / width, (long)width]));
    }

    /// <summary>Says which pages a sequence's tokens lie in.</summary>
    /// <param name="sequence">Row of the table.</param>
    /// <param name="pages">From its start on.</param>
    public void SetPages(int sequence, ReadOnlySpan<int> pages)
    {
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        _pages[sequence].narrow(0, 0, pages.Length).copy_(tensor(pages.ToArray()));
    }

    /// <remarks>From a graph where each row gives a token. 0 as temperature: the largest logit.</remarks>
    /// <inheritdoc/>
    public void Run(ReadOnlySpan<DecoderRow> rows, ReadOnlySpan<int> choosing, ReadOnlySpan<float> temperatures = default, ReadOnlySpan<uint> seeds = default)
    {
        using IDisposable none = no_grad();
        int longest = Longest(rows);
        bool adapters = HasAdapters(rows);
        if (choosing.Length == rows.Length && rows.Length <= Ladder[^1] && rows.Length <= _options.MaxSequences)
        {
            DecoderRow[] padded = Padded(rows);
            Upload(padded, Everyone(padded.Length), Filled(temperatures, padded.Length), Filled(seeds, padded.Length));
            Replay(padded.Length, longest, adapters, advance: false);
            return;
        }

        Upload(rows, choosing, Filled(temperatures, choosing.Length), Filled(seeds, choosing.Length));
        Forward(rows.Length, choosing.Length, Parts(rows.Length, longest), adapters, advance: false);
    }

    /// <summary>Sets the rows of the decode steps that follow; each gives a token a step and goes on by one.</summary>
    public void Begin(ReadOnlySpan<DecoderRow> rows, ReadOnlySpan<float> temperatures = default, ReadOnlySpan<uint> seeds = default)
    {
        using IDisposable none = no_grad();
        DecoderRow[] padded = Padded(rows);
        Upload(padded, Everyone(padded.Length), Filled(temperatures, padded.Length), Filled(seeds, padded.Length));
        _batch = (padded.Length, Longest(rows), HasAdapters(rows));
    }

    /// <summary>One decode step of the rows of <see cref="Begin"/>; does not wait for the device.</summary>
    public void Next()
    {
        using IDisposable none = no_grad();
        Replay(_batch.Rows, _batch.Longest++, _batch.Adapters, advance: true);
    }

    /// <summary>Tokens that the last step chose and their log-probabilities; waits for it.</summary>
    public (int[] Tokens, float[] LogProbabilities) Read(int count)
    {
        using var scope = NewDisposeScope();
        _stream.Synchronize();
        return ([.. _chosen.narrow(0, 0, count).cpu().data<int>()], [.. _logProbabilities.narrow(0, 0, count).cpu().data<float>()]);
    }

    /// <inheritdoc/>
    public Tensor Logits(int count) => _logits.narrow(0, 0, count);

    /// <summary>Starts the copy of the last step's tokens into host memory that the device can write; does not wait.</summary>
    /// <param name="host">From <see cref="CudaDriver.cuMemAllocHost"/>, room for the batch.</param>
    public void ReadLater(nint host) =>
        CudaDriver.Check(CudaDriver.cuMemcpyDtoHAsync(host, AtenTensor.DataPointer(_chosen), (nuint)(4 * _batch.Rows), _stream.Stream), "copy the chosen tokens");

    /// <summary>Waits for the device.</summary>
    public void Synchronize() => _stream.Synchronize();

    /// <summary>Frees everything but the weights.</summary>
    public void Dispose()
    {
        _stream.Synchronize();
        DropGraphs();
        Adapters.Dispose();
        _fourBit?.Dispose();
        _owned.ForEach(t => t.Dispose());
        foreach (IDisposable owned in _weights.Owned)
        {
            owned.Dispose();
        }

        _ = CudaDriver.cuEventDestroy(_forked);
        _ = CudaDriver.cuEventDestroy(_joined);
        _ = CudaDriver.cuStreamDestroy(_side);
        _stream.Dispose();
    }

    // A step in which each row gives a token, from the graph of its batch size where there is one.
    private void Replay(int rows, int longest, bool adapters, bool advance)
    {
        var key = (rows, Parts(rows, longest), adapters, advance);
        void Work() => Forward(rows, rows, key.Item2, adapters, advance);
        if (!_options.Graphs || !CudaGraph.IsAvailable)
        {
            Work();
        }
        else if (_graphs.TryGetValue(key, out CudaGraph? graph))
        {
            graph.Replay();
        }
        else if (_warm.Add(key))
        {
            // Once eagerly: what libraries set up on first use must not be captured.
            Work();
        }
        else
        {
            _stream.Synchronize();
            _graphs[key] = CudaGraph.Capture(Work, _stream);
            _graphs[key].Replay();
        }
    }

    private DecoderRow[] Padded(ReadOnlySpan<DecoderRow> rows)
    {
        int count = rows.Length;
        int size = Ladder.FirstOrDefault(l => l >= count && l <= _options.MaxSequences, count);
        return [.. rows, .. Enumerable.Repeat(new DecoderRow(0, -1, 0, -1), size - count)];
    }

    private static int[] Everyone(int count) => [.. Enumerable.Range(0, count)];

    private static T[] Filled<T>(ReadOnlySpan<T> values, int count) => [.. values, .. new T[count - values.Length]];

    private void Forward(int n, int c, int parts, bool adapters, bool advance)
    {
        using var scope = NewDisposeScope();
        Models.LlamaShape s = _weights.Shape;
        Tensor x = _x.narrow(0, 0, n);
        Tensor y = _y.narrow(0, 0, n);
        Tensor delta = _delta.narrow(0, 0, n);
        Tensor qkv = _qkv.narrow(0, 0, n);
        Tensor attention = _attention.narrow(0, 0, n);
        Tensor gateUp = _gateUp.narrow(0, 0, n);
        Tensor activation = _activation.narrow(0, 0, n);
        Launch("embed", (n, 1, 1), 256, _weights.Embedding, _tokens, x, (int)s.Size);
        for (int l = 0; l < _weights.LayerCount; l++)
        {
            AddNorm(l == 0 ? null : delta, Extra(3, adapters), _weights.Norms[l].Attention, x, y, n);
            Multiply(y, l, 0, qkv, adapters, n);
            Finish(l, qkv, n, adapters);
            Launch(
                _attend, (n, s.KeyHeads, parts), 256, qkv, (int)qkv.shape[1], _keys[l], _values[l], _positions, _sequences, _pages, _pagesOfSequence, attention, _partial, _arrived,
                (int)s.Heads, (int)s.KeyHeads, _group, _options.PageTokens, (float)s.AttentionScale);
            Multiply(attention, l, 1, delta, adapters, n);
            AddNorm(delta, Extra(1, adapters), _weights.Norms[l].Mlp, x, y, n);
            Multiply(y, l, 2, gateUp, adapters, n);
            Launch("add_swiglu", (((s.Inner / 2) + 127) / 128, n, 1), 128, gateUp, Extra(2, adapters), _slots, activation, (int)s.Inner);
            Multiply(activation, l, 3, delta, adapters, n);
        }

        AddNorm(delta, Extra(3, adapters), _weights.FinalNorm, x, y, n);
        if (c == 0)
        {
            return;
        }

        Tensor last = y;
        if (c != n)
        {
            last = _last.narrow(0, 0, c);
            Launch("gather_rows", (c, 1, 1), 256, y, _chosenRows, last, (int)s.Size);
        }

        Tensor logits = _logits.narrow(0, 0, c);
        Mm(last, _headTransposed, logits);
        Launch("choose", (c, 1, 1), 1024, logits, (int)s.Vocabulary, _temperatures, _seeds, _chosenRows, _tokens, _positions, _chosen, _logProbabilities, advance ? 1 : 0);
    }

    // Bias, adapters, norms of heads and RoPE of q, k and v; k and v go into the cache.
    private void Finish(int l, Tensor qkv, int n, bool adapters)
    {
        Models.LlamaShape s = _weights.Shape;
        KernelArgument none = (nint)0;
        (Tensor Query, Tensor Key)? norms = _weights.HeadNorms.Count > 0 ? _weights.HeadNorms[l] : null;
        long heads = s.Heads + (2 * s.KeyHeads);
        long pairs = s.HeadSize / 2;
        Launch(
            norms is null ? "finish_qkv" : "finish_qkv_normed", (n, norms is null ? ((heads * pairs) + 127) / 128 : heads, 1), norms is null ? 128 : (int)((pairs + 31) / 32 * 32), qkv,
            _weights.Biases.Count > 0 ? _weights.Biases[l] : none, norms?.Query ?? none, norms?.Key ?? none, (float)s.Epsilon, Extra(0, adapters), _slots, _positions, _sequences, _pages, _pagesOfSequence,
            _weights.Cosines, _weights.Sines, _keys[l], _values[l], (int)s.Heads, (int)s.KeyHeads, (int)s.HeadSize, _options.PageTokens);
    }

    private void AddNorm(Tensor? delta, KernelArgument extra, Tensor weight, Tensor x, Tensor y, int n) =>
        Launch("add_rmsnorm", (n, 1, 1), 512, x, delta is null ? (KernelArgument)(nint)0 : delta, extra, _slots, weight, x, y, (int)_weights.Shape.Size, (float)_weights.Shape.Epsilon);

    // The base's product on this stream, the adapters' two narrow ones beside it; the kernel that follows adds them.
    private void Multiply(Tensor x, int layer, int group, Tensor y, bool adapters, int n)
    {
        bool beside = adapters && _ranks[group] > 0;
        if (beside)
        {
            int k = (int)_weights.Inputs[group];
            int split = k >= 4096 ? 4 : k >= 2048 ? 2 : 1;
            int outputs = 8 / split;
            IReadOnlyList<long> rows = _weights.PartRows[group];
            int width = (int)rows.Sum();
            int first = (int)rows[0];
            Tensor table = Adapters.Table(layer, group);
            Order(_stream.Stream, _forked, _side);
            _kernels.LaunchOn(_side, "shrink", (n, (_ranks[group] + outputs - 1) / outputs, 1), 256, 0, x, table, _slots, _projected, k, _options.MaxRank, split);
            _kernels.LaunchOn(
                _side, "expand", (((width / 2) + 255) / 256, n, 1), 256, 0, table, _slots, _projected, _options.MaxRank, _extra, width, first, first + (int)rows.ElementAtOrDefault(1));
        }

        Mm(x, layer, group, y);
        if (beside)
        {
            Order(_side, _joined, _stream.Stream);
        }
    }

    // What comes on the second stream waits for what the first has been given.
    private static void Order(nint first, nint marker, nint second)
    {
        CudaDriver.Check(CudaDriver.cuEventRecord(marker, first), "record an event");
        CudaDriver.Check(CudaDriver.cuStreamWaitEvent(second, marker, 0), "order two streams");
    }

    private void Mm(Tensor a, int layer, int group, Tensor c)
    {
        if (_weights.Matrices[layer][group].FourBit is { } packed)
        {
            _fourBit!.Multiply(packed, a, c);
        }
        else
        {
            Mm(a, _transposed[layer][group]!, c);
        }
    }

    private static void Mm(Tensor a, Tensor b, Tensor c) => new AtenCall("aten::mm", "out").Add(a).Add(b).Add(c).InvokeOut();

    private KernelArgument Extra(int group, bool adapters) => adapters && _ranks[group] > 0 ? _extra : (KernelArgument)(nint)0;

    private void Upload(ReadOnlySpan<DecoderRow> rows, ReadOnlySpan<int> choosing, ReadOnlySpan<float> temperatures, ReadOnlySpan<uint> seeds)
    {
        if (rows.Length > _options.MaxTokens || choosing.Length > _options.MaxSequences)
        {
            throw new ArgumentException($"{rows.Length} tokens of which {choosing.Length} choose; the decoder was made for {_options.MaxTokens} and {_options.MaxSequences}.");
        }

        using var scope = NewDisposeScope();
        int n = rows.Length;
        int c = choosing.Length;
        int[] all = new int[(4 * n) + (3 * c)];
        for (int i = 0; i < n; i++)
        {
            (all[i], all[n + i], all[(2 * n) + i], all[(3 * n) + i]) = (rows[i].Token, rows[i].Position, rows[i].Sequence, rows[i].Slot);
        }

        Span<int> chosen = all.AsSpan(4 * n);
        choosing.CopyTo(chosen);
        MemoryMarshal.Cast<float, int>(temperatures).CopyTo(chosen[c..]);
        MemoryMarshal.Cast<uint, int>(seeds).CopyTo(chosen[(2 * c)..]);
        // One copy to the device, distributed there.
        Tensor there = tensor(all).to(_device);
        Set(_tokens, 0, n);
        Set(_positions, n, n);
        Set(_sequences, 2 * n, n);
        Set(_slots, 3 * n, n);
        if (c > 0)
        {
            Set(_chosenRows, 4 * n, c);
            Set(_temperatures, (4 * n) + c, c);
            Set(_seeds, (4 * n) + (2 * c), c);
        }

        void Set(Tensor place, int from, int count) => place.narrow(0, 0, count).copy_(there.narrow(0, from, count));
    }

    private static int Longest(ReadOnlySpan<DecoderRow> rows)
    {
        int longest = 0;
        foreach (DecoderRow row in rows)
        {
            longest = Math.Max(longest, row.Position + 1);
        }

        return longest;
    }

    private static bool HasAdapters(ReadOnlySpan<DecoderRow> rows)
    {
        foreach (DecoderRow row in rows)
        {
            if (row.Slot >= 0)
            {
                return true;
            }
        }

        return false;
    }

    // Enough blocks for the device, but no part shorter than 128 tokens; powers of two, so that graphs are few.
    private int Parts(int rows, int longest)
    {
        if (rows > Ladder[^1])
        {
            return 1;
        }

        long wanted = Math.Min(256 / Math.Max(1, rows * _weights.Shape.KeyHeads), longest / 128);
        long room = _partial.NumberOfElements / (rows * _weights.Shape.Heads * (_weights.Shape.HeadSize + 2));
        int parts = 1;
        while (parts * 2 <= Math.Min(Math.Min(wanted, room), MostParts))
        {
            parts *= 2;
        }

        return parts;
    }

    private void DropGraphs()
    {
        _stream.Synchronize();
        foreach (CudaGraph graph in _graphs.Values)
        {
            graph.Dispose();
        }

        _graphs.Clear();
        _warm.Clear();
    }

    private void Launch(string kernel, (long X, long Y, long Z) grid, int threads, params ReadOnlySpan<KernelArgument> arguments) =>
        _kernels.LaunchOn(_stream.Stream, kernel, grid, threads, 0, arguments);

    private Tensor Half(params long[] shape) => Own(zeros(shape, ScalarType.BFloat16, _device));

    private Tensor Own(Tensor made)
    {
        Tensor owned = made.DetachFromDisposeScope();
        _owned.Add(owned);
        return owned;
    }
}
