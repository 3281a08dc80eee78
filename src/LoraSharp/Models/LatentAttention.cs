using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>
/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values come from one low-rank
/// compression, and positions travel in a separate part of q and in one key shared by all heads.
/// </summary>
internal sealed class LatentAttention : AttentionLayer
{
    private readonly int _heads;
    private readonly LatentConfig _sizes;
    private readonly int _layer;
    private readonly AttentionSpec _spec;
    private readonly LinearLayer _query;
    private readonly LinearLayer? _queryDown;
    private readonly NormLayer? _queryNorm;
    private readonly LinearLayer _keyValueDown;
    private readonly NormLayer _keyValueNorm;
    private readonly LinearLayer _keyValueUp;
    private readonly LinearLayer _output;

    public LatentAttention(DecoderConfig config, int layer, ILinearFactory factory, WeightReader weights)
    {
        AttentionConfig attention = config.Attention;
        _heads = attention.Heads;
        _sizes = attention.Latent!;
        _layer = layer;
        string path = $"{config.Names.Layer(layer)}.{config.Names.Attention}";
        long d = config.HiddenSize;
        long q = (long)_heads * (_sizes.NopeSize + _sizes.RopeSize);
        if (_sizes.QueryRank is { } rank)
        {
            _queryDown = factory.CreateLinear(new(path + ".q_a_proj", d, rank, attention.QkvBias), weights);
            _queryNorm = new(config.Norm, path + ".q_a_layernorm", rank, factory, weights);
            _query = factory.CreateLinear(new(path + ".q_b_proj", rank, q, false), weights);
        }
        else
        {
            _query = factory.CreateLinear(new(path + ".q_proj", d, q, false), weights);
        }

        _keyValueDown = factory.CreateLinear(new(path + ".kv_a_proj_with_mqa", d, _sizes.KeyValueRank + _sizes.RopeSize, attention.QkvBias), weights);
        _keyValueNorm = new(config.Norm, path + ".kv_a_layernorm", _sizes.KeyValueRank, factory, weights);
        _keyValueUp = factory.CreateLinear(new(path + ".kv_b_proj", _sizes.KeyValueRank, (long)_heads * (_sizes.NopeSize + _sizes.ValueSize), false), weights);
        _output = factory.CreateLinear(new($"{path}.{config.Names.Output}", (long)_heads * _sizes.ValueSize, d, attention.OutputBias), weights);
        _spec = new() { Scale = attention.Scale, Window = config.Layers[layer].Window };
    }

    public override IEnumerable<LinearLayer> Linears =>
        _queryDown is null ? [_query, _keyValueDown, _keyValueUp, _output] : [_queryDown, _query, _keyValueDown, _keyValueUp, _output];

    public override IEnumerable<NamedTensor> OwnParameters => [.. _queryNorm?.Parameters ?? [], .. _keyValueNorm.Parameters];

    public override Tensor Forward(Tensor x, RotaryAngles? angles, Tensor positions, AttentionContext context)
    {
        using var scope = NewDisposeScope();
        long b = x.shape[0], s = x.shape[1];
        int nope = _sizes.NopeSize, rope = _sizes.RopeSize, value = _sizes.ValueSize;
        Tensor q = _queryDown is null ? _query.Forward(x) : _query.Forward(_queryNorm!.Forward(_queryDown.Forward(x)));
        q = q.view(b, s, _heads, nope + rope).transpose(1, 2);
        Tensor compressed = _keyValueDown.Forward(x);
        Tensor up = _keyValueUp.Forward(_keyValueNorm.Forward(compressed.narrow(-1, 0, _sizes.KeyValueRank)));
        Tensor heads = up.view(b, s, _heads, nope + value).transpose(1, 2);
        Tensor queryPositions = q.narrow(-1, nope, rope);
        Tensor keyPositions = compressed.narrow(-1, _sizes.KeyValueRank, rope).view(b, 1, s, rope);
        if (angles is not null)
        {
            queryPositions = RotaryEmbedding.Apply(queryPositions, angles);
            keyPositions = RotaryEmbedding.Apply(keyPositions, angles);
        }

        Tensor query = cat([q.narrow(-1, 0, nope), queryPositions], -1);
        Tensor key = cat([heads.narrow(-1, 0, nope), keyPositions.expand(b, _heads, s, rope)], -1);
        Tensor mixed = context.Attend(_layer, query, key, heads.narrow(-1, nope, value), _spec);
        return _output.Forward(mixed.transpose(1, 2).reshape(b, s, (long)_heads * value)).MoveToOuterDisposeScope();
    }

    protected override void DisposeOwn()
    {
        _queryNorm?.Dispose();
        _keyValueNorm.Dispose();
    }
}
