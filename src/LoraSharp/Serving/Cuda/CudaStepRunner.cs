using System.Runtime.CompilerServices;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Serving.Cache;
using LoraSharp.Serving.Scheduling;
using LoraSharp.Serving.Shelf;
using static TorchSharp.torch;

namespace LoraSharp.Serving.Cuda;

/// <summary>
/// Runs the engine's steps by a <see cref="FusedDecoder"/> over the engine's own cache. A step that it does not know
/// (adapters that are more than A and B, or too many of them) goes the plain way, over the same cache.
/// </summary>
internal sealed class CudaStepRunner : IStepRunner
{
    private readonly IStepRunner _plain;
    private readonly Func<IRowDecoder> _create;
    private readonly Action<string> _notes;
    private readonly string _layers;
    private readonly int _blockSize;
    private readonly HashSet<string> _linears;
    private readonly ConditionalWeakTable<LoraAdapter, object> _verdicts = [];
    private IRowDecoder? _decoder;
    private AdapterSlots? _slots;
    private bool _failed;

    /// <summary>Creates a runner; the decoder is made on the first step, on the thread that runs them.</summary>
    /// <param name="plain">The way for everything else; owned.</param>
    /// <param name="create">Makes the decoder.</param>
    /// <param name="layers">Name of the layers in the state dict: <c>model.layers</c>.</param>
    /// <param name="layerCount">How many.</param>
    /// <param name="blockSize">Tokens a block of the cache.</param>
    /// <param name="notes">Told once when the decoder cannot be made.</param>
    public CudaStepRunner(IStepRunner plain, Func<IRowDecoder> create, string layers, int layerCount, int blockSize, Action<string> notes)
    {
        _plain = plain;
        _create = create;
        _notes = notes;
        _layers = layers;
        _blockSize = blockSize;
        _linears = [.. Enumerable.Range(0, layerCount).SelectMany(l => LlamaTensors.LinearGroups.SelectMany(g => g).Select(n => $"{layers}.{l}.{n}"))];
    }

    /// <summary>Why a model's steps cannot run this way; null when they can.</summary>
    /// <param name="model">The base.</param>
    /// <param name="adapters">Its adapters.</param>
    /// <param name="longest">Longest sequence.</param>
    public static string? Obstacle(CausalLanguageModel model, AdapterSet adapters, int longest) =>
        LlamaTensors.Obstacle(model, longest) is { } shape ? shape
        : adapters.Linears.Any(l => l.Value.Inner is not DenseLinear && (l.Key == model.Config.Names.Head || l.Value.Inner is not QuantizedLinear { Weight: FourBitWeight })) ? "its base must be dense or in 4 bits, and its head dense"
        : Groups(model, adapters).Select(GroupObstacle).FirstOrDefault(o => o is not null) is { } group ? group
        : FusedDecoder.AttentionKernel(LlamaShape.Of(model.Config)) is null ? "it has no attention kernel for heads of this size"
        : null;

    /// <summary>A runner over the engine's cache; <see cref="Obstacle"/> must be null.</summary>
    public static CudaStepRunner Over(IStepRunner plain, CausalLanguageModel model, AdapterSet adapters, PagedCache cache, EngineLimits limits, int maxLength, Action<string> notes)
    {
        string layers = model.Config.Names.Layers;
        return new CudaStepRunner(plain, Create, layers, model.LayerCount, cache.BlockSize, notes);

        IRowDecoder Create()
        {
            LlamaTensors tensors = LlamaTensors.Of(model, maxLength);
            DecoderWeights weights = Stack(tensors, adapters, layers);
            var options = new DecoderOptions
            {
                Pages = cache.Blocks,
                PageTokens = cache.BlockSize,
                MaxLength = maxLength,
                MaxTokens = limits.StepTokens,
                MaxSequences = limits.MaxBatch,
                AdapterSlots = limits.MaxLoadedAdapters,
            };
            return new FusedDecoder(weights, options, model.Device, cache.Reserve(tensors.Shape.KeyHeads, tensors.Shape.HeadSize, ScalarType.BFloat16, model.Device));
        }
    }

    /// <inheritdoc/>
    public Tensor? Run(IReadOnlyList<StepChunk> chunks)
    {
        IRowDecoder? decoder = Decoder();
        int tokens = chunks.Sum(c => c.Count);
        int wanted = chunks.Sum(c => c.LogitRows);
        if (decoder is null || tokens > decoder.MaxTokens || Math.Max(wanted, chunks.Count) > decoder.MaxSequences || Slots(chunks, decoder) is not { } slots)
        {
            return _plain.Run(chunks);
        }

        var rows = new DecoderRow[tokens];
        var choosing = new List<int>(wanted);
        int width = chunks.Max(c => (c.Start + c.Count + _blockSize - 1) / _blockSize);
        int[] pages = new int[chunks.Count * width];
        int at = 0;
        for (int i = 0; i < chunks.Count; i++)
        {
            StepChunk chunk = chunks[i];
            int slot = chunk.Sequence.Adapter is { } version ? slots[version.Adapter] : -1;
            ReadOnlySpan<int> table = chunk.Sequence.Blocks.Table;
            table[..Math.Min(width, table.Length)].CopyTo(pages.AsSpan(i * width));
            for (int t = chunk.Start; t < chunk.Start + chunk.Count; t++)
            {
                rows[at++] = new DecoderRow(chunk.Sequence.Tokens[t], t, i, slot);
            }

            choosing.AddRange(Enumerable.Range(at - chunk.LogitRows, chunk.LogitRows));
        }

        decoder.SetPages(pages, width);
        decoder.Run(rows, [.. choosing]);
        return wanted == 0 ? null : decoder.Logits(wanted);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _decoder?.Dispose();
        _plain.Dispose();
    }

    private IRowDecoder? Decoder()
    {
        if (_decoder is null && !_failed)
        {
            try
            {
                _decoder = _create();
                _slots = new AdapterSlots(_decoder.Slots);
            }
            catch (LoraSharpException error)
            {
                _failed = true;
                _notes($"Decoding goes by libtorch's operators: {error.Message}");
            }
        }

        return _decoder;
    }

    private IReadOnlyDictionary<LoraAdapter, int>? Slots(IReadOnlyList<StepChunk> chunks, IRowDecoder decoder)
    {
        LoraAdapter[] adapters = [.. chunks.Select(c => c.Sequence.Adapter).OfType<AdapterVersion>().Select(v => v.Adapter).Distinct()];
        return adapters.All(a => Fits(a, decoder)) ? _slots!.Take(adapters, (slot, adapter) => decoder.LoadAdapter(slot, (layer, name) => Find(adapter, layer, name))) : null;
    }

    private LowRankPair? Find(LoraAdapter adapter, int layer, string name) =>
        adapter.Modules.TryGetValue($"{_layers}.{layer}.{name}", out AdapterModule? module) ? new(module.A!, module.B!, module.Scaling) : null;

    private bool Fits(LoraAdapter adapter, IRowDecoder decoder)
    {
        if (_verdicts.TryGetValue(adapter, out object? verdict))
        {
            return (bool)verdict;
        }

        bool fits = adapter.Parameters.Count == 0
            && adapter.Modules.All(m => _linears.Contains(m.Key) && m.Value is { IsEmbedding: false, A: not null, B: not null, BBias: null, Magnitude: null, Bias: null, Weight: null, TokenRows: null })
            && adapter.Modules.GroupBy(m => Group(m.Key)).All(g => g.Sum(m => m.Value.Rank) <= decoder.MaxRank);
        _verdicts.Add(adapter, fits);
        return fits;
    }

    // Layer and matrix that a linear is a part of.
    private static (string Layer, int Group) Group(string path)
    {
        int group = LlamaTensors.LinearGroups.TakeWhile(names => !names.Any(n => path.EndsWith("." + n, StringComparison.Ordinal))).Count();
        string name = LlamaTensors.LinearGroups[group].First(n => path.EndsWith("." + n, StringComparison.Ordinal));
        return (path[..^name.Length], group);
    }

    // The linears that read one input, of each layer's four.
    private static IEnumerable<LinearLayer[]> Groups(CausalLanguageModel model, AdapterSet adapters) =>
        from layer in Enumerable.Range(0, model.LayerCount)
        from names in LlamaTensors.LinearGroups
        select names.Select(n => adapters.Linears[$"{model.Config.Names.Layers}.{layer}.{n}"].Inner).ToArray();

    private static string? GroupObstacle(LinearLayer[] group) =>
        group.All(l => l is DenseLinear) ? null
        : !group.All(l => l is QuantizedLinear { Weight: FourBitWeight }) ? "its linears that read the same input must be all dense or all in 4 bits"
        : FourBitMatrix.Obstacle([.. group.Select(FourBit)]);

    private static FourBitWeight FourBit(LinearLayer linear) => (FourBitWeight)((QuantizedLinear)linear).Weight;

    // Dense matrices that read the same input under each other; the model's layers read their part of them from then on. Those in 4 bits
    // stay as they are.
    private static DecoderWeights Stack(LlamaTensors tensors, AdapterSet adapters, string layers)
    {
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        var matrices = new List<IReadOnlyList<DecoderMatrix>>();
        for (int layer = 0; layer < tensors.Norms.Count; layer++)
        {
            var groups = new List<DecoderMatrix>();
            foreach (IReadOnlyList<string> names in LlamaTensors.LinearGroups)
            {
                LinearLayer[] linears = [.. names.Select(n => adapters.Linears[$"{layers}.{layer}.{n}"].Inner)];
                if (linears[0] is QuantizedLinear)
                {
                    groups.Add(new FourBitMatrix([.. linears.Select(FourBit)]));
                    continue;
                }

                DenseLinear[] parts = [.. linears.Cast<DenseLinear>()];
                using var one = NewDisposeScope();
                Tensor[] weights = [.. parts.Select(p => p.DenseWeight())];
                Tensor matrix = cat(weights, 0).DetachFromDisposeScope();
                long row = 0;
                for (int i = 0; i < parts.Length; i++)
                {
                    parts[i].Replace(matrix.narrow(0, row, weights[i].shape[0]));
                    row += weights[i].shape[0];
                }

                groups.Add(matrix);
            }

            matrices.Add(groups);
        }

        return new DecoderWeights(tensors.Shape, tensors.Embedding, tensors.Norms, matrices, tensors.FinalNorm, tensors.Head, tensors.Cosines, tensors.Sines)
        {
            Biases = tensors.Biases,
            HeadNorms = tensors.HeadNorms,
            Owned = [tensors, .. matrices.SelectMany(m => m).Select(m => m.Dense).OfType<Tensor>()],
        };
    }
}
