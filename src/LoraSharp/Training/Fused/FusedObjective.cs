using LoraSharp.Adapters;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors.Cuda;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Training.Fused;

/// <summary>
/// Next-token prediction by <see cref="FusedLoraStep"/>: the trainer keeps its optimizer, clipping, checkpoints and
/// observers, and gets losses and gradients from the step written by hand. Evaluation goes the plain way.
/// </summary>
/// <remarks>All micro-batches must have one length (packing, padded to the window); one with fewer rows is filled up.</remarks>
public sealed class FusedObjective : ITrainingObjective, IDisposable
{
    private readonly CausalLanguageModel _model;
    private readonly AdapterSet _adapters;
    private readonly LoraAdapter _adapter;
    private readonly ITrainingObjective _plain;
    private readonly FusedModel _fused;
    private readonly Dictionary<string, AdapterModule> _modules;
    private readonly int _rows;
    private readonly bool _checkpointing;
    private readonly LlamaTensors _tensors;
    private readonly HostTable? _embedding;
    private FusedLoraStep? _step;
    private readonly int _length;

    private FusedObjective(CausalLanguageModel model, AdapterSet adapters, LoraAdapter adapter, ITrainingObjective plain, int rows, int length, bool checkpointing)
    {
        _model = model;
        _adapters = adapters;
        _adapter = adapter;
        _plain = plain;
        _rows = rows;
        _length = length;
        _checkpointing = checkpointing;
        _modules = adapter.Modules.ToDictionary(m => m.Key, m => m.Value);
        if (checkpointing && !model.IsTied && Table() is { } table)
        {
            // Memory is what counts then, and a micro-batch reads few of its rows.
            using IDisposable none = no_grad();
            _embedding = new HostTable(table.Weight);
            table.Replace(_embedding.View());
        }

        _tensors = LlamaTensors.Of(model, length);
        _fused = Describe();
    }

    // Attention is launched for this many sequences whether they are there or not, so not for the most there could be.
    private int MostSequences => 64 * _rows;

    /// <summary>Why a run cannot use the fused step; null when it can.</summary>
    /// <param name="model">The base with the adapter on it.</param>
    /// <param name="adapter">What is trained.</param>
    /// <param name="options">Of the run.</param>
    /// <param name="length">Tokens of every row of all micro-batches; null where they differ.</param>
    public static string? Obstacle(CausalLanguageModel model, LoraAdapter adapter, TrainerOptions options, int? length)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(adapter);
        ArgumentNullException.ThrowIfNull(options);
        DecoderConfig c = model.Config;
        return LlamaTensors.Obstacle(model, length ?? 0) is { } shape ? shape
            : length is null ? "it needs micro-batches of one length: data.packing"
            : options.LabelSmoothing > 0 || options.ZLoss > 0 || options.NeftuneAlpha > 0 ? "label smoothing, z-loss and NEFTune are not in it"
            : adapter.Config.Dropout > 0 || adapter.RankDropout > 0 ? "dropout is not in it"
            : adapter.Parameters.Count > 0 || adapter.HasAnchors || adapter.Modules.Values.Any(m => !IsPlain(m) || !m.Name.StartsWith(c.Names.Layers + ".", StringComparison.Ordinal)) ? "it trains plain A and B of the decoder's linear layers only"
            : adapter.Modules.Keys.Any(n => !model.Linears.Any(l => l.Spec.Name == n && l is LoraLinear { Inner: DenseLinear or QuantizedLinear { Weight: FourBitWeight } })) ? "it knows dense and 4-bit bases only"
            : null;
    }

    /// <summary>Makes the objective; <see cref="Obstacle"/> must be null.</summary>
    /// <param name="model">The base with the adapter on it.</param>
    /// <param name="adapters">The model's.</param>
    /// <param name="adapter">What is trained.</param>
    /// <param name="options">Of the run.</param>
    /// <param name="rows">Rows of a full micro-batch.</param>
    /// <param name="length">Tokens of a row.</param>
    public static FusedObjective Create(CausalLanguageModel model, AdapterSet adapters, LoraAdapter adapter, TrainerOptions options, int rows, int length)
    {
        ArgumentNullException.ThrowIfNull(options);
        return new FusedObjective(model, adapters, adapter, new LanguageModelingObjective(model, options), rows, length, options.GradientCheckpointing == GradientCheckpointing.On);
    }

    /// <inheritdoc/>
    public bool IsLikelihood => true;

    /// <inheritdoc/>
    public double Weight(MicroBatch batch) => _plain.Weight(batch);

    /// <inheritdoc/>
    public MicroBatchLoss Evaluate(MicroBatch batch) => _plain.Evaluate(batch);

    /// <inheritdoc/>
    public MicroBatchLoss Backward(MicroBatch batch, double stepWeight, long seed)
    {
        ArgumentNullException.ThrowIfNull(batch);
        TargetTokens targets = TargetTokens.Of(batch);
        if (targets.Weights is not null || batch.Length != _length || batch.Rows > _rows)
        {
            return _plain.Backward(batch, stepWeight, seed);
        }

        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        _step ??= CreateStep();
        _step.RefreshFactors();
        int n = _rows * _length;
        long[] ids = new long[n];
        int[] positions = new int[n];
        long[] labels = new long[n];
        Array.Fill(labels, TrainingExample.Ignored);
        batch.InputIds.CopyTo(ids, 0);
        for (int i = 0; i < targets.Count; i++)
        {
            labels[targets.Positions[i]] = targets.Ids[i];
        }

        var borders = new List<int>();
        for (int i = 0; i < n; i++)
        {
            // Padding and missing rows are sequences of their own, cut at each row.
            int sequence = i < batch.Sequences.Length ? batch.Sequences[i] : 0;
            if (i % _length == 0 || sequence != (i - 1 < batch.Sequences.Length ? batch.Sequences[i - 1] : 0))
            {
                borders.Add(i);
            }

            positions[i] = sequence == 0 ? i - borders[^1] : (int)batch.Positions[i];
        }

        borders.Add(n);
        if (borders.Count > MostSequences + 1)
        {
            return _plain.Backward(batch, stepWeight, seed);
        }

        _step.MicroStep(ids, labels, positions, [.. borders], 1 / stepWeight, first: true);
        foreach ((string name, Tensor a, Tensor b) in _step.DeviceGradients())
        {
            AdapterModule module = _modules[name];
            module.A!.grad!.add_(a);
            module.B!.grad!.add_(b);
        }

        Tensor losses = targets.Count == 0 ? empty(0, ScalarType.Float32, _model.Device) : targets.Select(_step.Losses.view(1, n, 1)).view(-1);
        return new MicroBatchLoss
        {
            Weight = targets.Weight,
            Sum = losses.sum(ScalarType.Float64).MoveToOuterDisposeScope(),
            BySequence = targets.SumBySequence(losses).MoveToOuterDisposeScope(),
            SequenceWeights = targets.SequenceWeights(),
        };
    }

    /// <summary>Frees the step's buffers and puts the embedding back on the device.</summary>
    public void Dispose()
    {
        _step?.Dispose();
        _tensors.Dispose();
        if (_embedding is not null && Table() is { } table)
        {
            using IDisposable none = no_grad();
            table.Replace(table.Weight.clone());
            _embedding.Dispose();
        }
    }

    private DenseEmbedding? Table() => (_model.Embeddings[0] is LoraEmbedding adapted ? adapted.Inner : _model.Embeddings[0]) as DenseEmbedding;

    private FusedLoraStep CreateStep() => new(_fused, new FusedOptions
    {
        Rows = _rows,
        Length = _length,
        MostSequences = MostSequences,
        Checkpointing = _checkpointing,
        InputsInHostMemory = _checkpointing,
        SharedWeights = _adapters.Linears.Values.Any(l => l.Inner is QuantizedLinear),
    }, _model.Device);

    private static void WriteBase(LinearLayer layer, Tensor view)
    {
        if (layer is QuantizedLinear { Weight: var weight })
        {
            weight.DequantizeInto(view);
            return;
        }

        using Tensor dense = layer.DenseWeight();
        view.copy_(dense);
    }

    private static bool IsPlain(AdapterModule m) =>
        m is { IsEmbedding: false, A: not null, B: not null, BBias: null, Magnitude: null, Bias: null, Weight: null, TokenRows: null };

    private FusedModel Describe()
    {
        FusedLinear Linear(string path)
        {
            LoraLinear linear = _adapters.Linears[path];
            AdapterModule? module = _adapter.Modules.GetValueOrDefault(path);
            return new FusedLinear
            {
                Name = path,
                Rows = linear.Spec.OutFeatures,
                WriteBase = view => WriteBase(linear.Inner, view),
                // The folded matrix holds the weight then; evaluation reads it there.
                Placed = linear.Inner is DenseLinear dense ? dense.Replace : null,
                A = module?.A,
                B = module?.B,
                Scaling = module?.Scaling ?? 1,
            };
        }

        FusedLayer[] layers = [.. _tensors.Norms.Select((norms, l) =>
        {
            FusedLinear[] linears = [.. LlamaTensors.LinearGroups.SelectMany(g => g).Select(name => Linear($"{_model.Config.Names.Layers}.{l}.{name}"))];
            return new FusedLayer(norms.Attention, norms.Mlp, linears[0], linears[1], linears[2], linears[3], linears[4], linears[5], linears[6])
            {
                QkvBias = _tensors.Biases.ElementAtOrDefault(l),
                QueryNorm = _tensors.HeadNorms.ElementAtOrDefault(l).Query,
                KeyNorm = _tensors.HeadNorms.ElementAtOrDefault(l).Key,
            };
        })];
        return new FusedModel(_tensors.Shape, _tensors.Embedding, layers, _tensors.FinalNorm, _tensors.Head, _tensors.Cosines, _tensors.Sines);
    }
}
