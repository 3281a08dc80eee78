using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>
/// A decoder-only language model: embedding, blocks, final norm, output projection. It is built once through an
/// <see cref="ILinearFactory"/> and knows nothing of what its layers are. It owns its layers; the
/// <see cref="Formats.HuggingFace.ModelSource"/> that mapped weights come from must outlive it.
/// </summary>
/// <remarks>Shapes: b rows, s tokens, d hidden size, v vocabulary.</remarks>
public sealed class CausalLanguageModel : IDisposable
{
    private readonly EmbeddingLayer _embedding;
    private readonly EmbeddingLayer? _positions;
    private readonly LinearLayer? _projectIn;
    private readonly LinearLayer? _projectOut;
    private readonly DecoderLayer[] _layers;
    private readonly NormLayer? _finalNorm;
    private readonly LinearLayer _head;
    private readonly RopeSpec[] _ropes;

    internal CausalLanguageModel(DecoderConfig config, bool tieHead, ILinearFactory factory, WeightReader weights)
    {
        Config = config;
        DType = weights.DType;
        Device = weights.Device;
        DecoderNames names = config.Names;
        int width = config.EmbeddingSize ?? config.HiddenSize;
        _embedding = factory.CreateEmbedding(new(names.Embedding, config.VocabularySize, width), weights);
        _positions = names.Positions is { } positions
            ? factory.CreateEmbedding(new(positions, config.Positions!.Count + config.Positions.Offset, config.HiddenSize), weights)
            : null;
        if (config.EmbeddingSize is not null)
        {
            _projectOut = factory.CreateLinear(new(names.ProjectOut, config.HiddenSize, width, false), weights);
            _projectIn = factory.CreateLinear(new(names.ProjectIn, width, config.HiddenSize, false), weights);
        }

        _layers = [.. Enumerable.Range(0, config.Layers.Count).Select(i => new DecoderLayer(config, i, factory, weights))];
        _finalNorm = names.FinalNorm is { } norm ? new(config.Norm, norm, config.HiddenSize, factory, weights) : null;
        _head = factory.CreateLinear(
            new(names.Head, width, config.VocabularySize, config.HeadBias) { IsOutputHead = true, TiedTo = tieHead ? names.Embedding + ".weight" : null },
            weights);
        _ropes = [.. config.Layers.Select(l => l.Rope).OfType<RopeSpec>().Distinct()];
        IsTied = tieHead;
    }

    /// <summary>The switches it was built by.</summary>
    public DecoderConfig Config { get; }

    /// <summary>Type it computes in.</summary>
    public ScalarType DType { get; }

    /// <summary>Device of its tensors.</summary>
    public Device Device { get; }

    /// <summary>Whether the output projection is the embedding's weight.</summary>
    public bool IsTied { get; }

    /// <summary>
    /// Whether positions are turned by angles that depend on how long the sequence is (dynamic RoPE, LongRoPE): a pass must
    /// then hold one sequence only, and its beginning can't be computed apart.
    /// </summary>
    public bool PositionsDependOnLength => Array.Exists(_ropes, r => r.DependsOnLength);

    /// <summary>Number of blocks.</summary>
    public int LayerCount => _layers.Length;

    /// <summary>The output projection.</summary>
    public LinearLayer Head => _head;

    /// <summary>Every linear layer in the order of the state dict, the output projection last.</summary>
    public IReadOnlyList<LinearLayer> Linears => [.. Projections, .. _layers.SelectMany(l => l.Linears), _head];

    /// <summary>The token table and, where there is one, the position table.</summary>
    public IReadOnlyList<EmbeddingLayer> Embeddings => _positions is null ? [_embedding] : [_embedding, _positions];

    /// <summary>Every tensor under its Hugging Face name; a tied weight comes once for each of its names.</summary>
    public IEnumerable<NamedTensor> Parameters =>
    [
        .. Embeddings.SelectMany(e => e.Parameters),
        .. Projections.SelectMany(p => p.Parameters),
        .. _layers.SelectMany(l => l.Linears.SelectMany(p => p.Parameters).Concat(l.OwnParameters)),
        .. _finalNorm?.Parameters ?? [],
        .. _head.Parameters,
    ];

    /// <summary>ids [b, s] → the output of the final norm [b, s, d].</summary>
    /// <param name="ids">Token ids, int64.</param>
    /// <param name="positions">Position of each token in its sequence, [b, s] or [1, s], int64.</param>
    /// <param name="attention">Who sees whom.</param>
    public Tensor Hidden(Tensor ids, Tensor positions, AttentionContext attention)
    {
        using var scope = NewDisposeScope();
        using DecoderPass pass = Begin(positions, attention);
        Tensor x = Embed(ids, pass);
        for (int i = 0; i < _layers.Length; i++)
        {
            Tensor next = RunLayer(i, x, pass);
            x.Dispose();
            x = next;
        }

        return Normalize(x).MoveToOuterDisposeScope();
    }

    /// <summary>hidden [..., d] → logits [..., v], scaled and capped as the family does.</summary>
    public Tensor Logits(Tensor hidden)
    {
        using var scope = NewDisposeScope();
        Tensor logits = _head.Forward(hidden);
        if (Config.LogitScale != 1)
        {
            logits = logits * Config.LogitScale;
        }

        if (Config.LogitSoftCap is { } cap)
        {
            logits = (logits / cap).tanh() * cap;
        }

        return logits.MoveToOuterDisposeScope();
    }

    /// <summary><see cref="Hidden"/>, then <see cref="Logits"/>: ids [b, s] → [b, s, v].</summary>
    public Tensor Forward(Tensor ids, Tensor positions, AttentionContext attention)
    {
        using Tensor hidden = Hidden(ids, positions, attention);
        return Logits(hidden);
    }

    /// <summary>
    /// What all layers of one forward pass share. With <see cref="Embed"/>, <see cref="RunLayer"/> and
    /// <see cref="Normalize"/> a caller can run the blocks one by one, e.g. to recompute them in the backward pass.
    /// </summary>
    /// <param name="positions">As in <see cref="Hidden"/>.</param>
    /// <param name="attention">As in <see cref="Hidden"/>.</param>
    public DecoderPass Begin(Tensor positions, AttentionContext attention)
    {
        ArgumentNullException.ThrowIfNull(positions);
        ArgumentNullException.ThrowIfNull(attention);
        long length = Array.Exists(_ropes, r => r.DependsOnLength) ? Longest(positions) : 0;
        return new DecoderPass(positions, attention, _ropes.ToDictionary(r => r, r => RotaryEmbedding.Angles(r, positions, length, DType)));
    }

    /// <summary>ids [b, s] → the input of the first block [b, s, d].</summary>
    public Tensor Embed(Tensor ids, DecoderPass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        using var scope = NewDisposeScope();
        Tensor x = _embedding.Forward(ids);
        if (Config.EmbeddingScale != 1)
        {
            // The factor is rounded to the compute type first, as Gemma's reference does.
            x = x * tensor((float)Config.EmbeddingScale, x.device).to(x.dtype);
        }

        x = _projectIn?.Forward(x) ?? x;

        if (_positions is not null)
        {
            x = x + _positions.Forward(pass.Positions + Config.Positions!.Offset);
        }

        return x.MoveToOuterDisposeScope();
    }

    /// <summary>One block: [b, s, d] → [b, s, d].</summary>
    public Tensor RunLayer(int layer, Tensor hidden, DecoderPass pass)
    {
        ArgumentNullException.ThrowIfNull(pass);
        return _layers[layer].Forward(hidden, Config.Layers[layer].Rope is { } rope ? pass.Angles[rope] : null, pass.Positions, pass.Attention);
    }

    /// <summary>The final norm, and the projection to the token table's width where that is another: [b, s, d] → a new tensor that the output projection reads.</summary>
    public Tensor Normalize(Tensor hidden)
    {
        ArgumentNullException.ThrowIfNull(hidden);
        if (_projectOut is null)
        {
            return _finalNorm?.Forward(hidden) ?? hidden.alias();
        }

        using var scope = NewDisposeScope();
        return _projectOut.Forward(_finalNorm?.Forward(hidden) ?? hidden).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// The positions transformers gives the tokens of a batch of which only the mask is known: 0, 1, 2, ... by column, or
    /// counting real tokens only where the family does (OPT).
    /// </summary>
    /// <param name="length">s.</param>
    /// <param name="mask">[b, s], not 0 at real tokens; null for no padding.</param>
    /// <returns>[1, s] or [b, s], int64.</returns>
    public Tensor Positions(long length, Tensor? mask)
    {
        if (mask is null || Config.Positions?.CountsRealTokens != true)
        {
            return arange(length, ScalarType.Int64, Device).view(1, length);
        }

        using var scope = NewDisposeScope();
        Tensor real = mask.ne(0).to(ScalarType.Int64).to(Device);
        return ((real.cumsum(1) * real) - 1).clamp(min: 0).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Whether growing a sequence from one length to another changes the frequencies of earlier tokens, so that cached
    /// keys are no longer what a fresh pass would give (LongRoPE at its switch).
    /// </summary>
    public bool InvalidatesCache(long from, long to) =>
        Array.Exists(_ropes, r => r.Scaling == RopeScaling.LongRope && r.Regime(from) != r.Regime(to));

    /// <inheritdoc/>
    public void Dispose()
    {
        _embedding.Dispose();
        _positions?.Dispose();
        foreach (DecoderLayer layer in _layers)
        {
            layer.Dispose();
        }

        _projectIn?.Dispose();
        _projectOut?.Dispose();
        _finalNorm?.Dispose();
        _head.Dispose();
    }

    private IEnumerable<LinearLayer> Projections => _projectIn is null ? [] : [_projectOut!, _projectIn];

    private static long Longest(Tensor positions)
    {
        using Tensor largest = positions.max();
        return largest.to(ScalarType.Int64).item<long>() + 1;
    }
}

/// <summary>What the blocks of one forward pass share; made by <see cref="CausalLanguageModel.Begin"/>.</summary>
public sealed class DecoderPass : IDisposable
{
    internal DecoderPass(Tensor positions, AttentionContext attention, IReadOnlyDictionary<RopeSpec, RotaryAngles> angles)
    {
        Positions = positions;
        Attention = attention;
        Angles = angles;
        foreach (RotaryAngles angle in angles.Values)
        {
            // Owned by the pass, whatever scope it was made in.
            angle.Cos.DetachFromDisposeScope();
            angle.Sin.DetachFromDisposeScope();
        }
    }

    /// <summary>[b, s] or [1, s]; owned by the caller.</summary>
    public Tensor Positions { get; }

    /// <summary>Who sees whom; owned by the caller.</summary>
    public AttentionContext Attention { get; }

    internal IReadOnlyDictionary<RopeSpec, RotaryAngles> Angles { get; }

    /// <summary>Frees the cosines and sines: only after the backward pass of whatever was computed with them.</summary>
    public void Dispose()
    {
        foreach (RotaryAngles angle in Angles.Values)
        {
            angle.Dispose();
        }
    }
}
