using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>Attention of one layer: projections, norms of q and k, positions, and what the context makes of them.</summary>
internal abstract class AttentionLayer : IDisposable
{
    /// <summary>The linear layers, in the order of the state dict.</summary>
    public abstract IEnumerable<LinearLayer> Linears { get; }

    /// <summary>Tensors that belong to no linear layer.</summary>
    public abstract IEnumerable<NamedTensor> OwnParameters { get; }

    /// <summary>x [b, s, d] → [b, s, d].</summary>
    /// <param name="x">The normed input.</param>
    /// <param name="angles">Rotary positions; null where the layer has none.</param>
    /// <param name="positions">[b, s] or [1, s].</param>
    /// <param name="context">Who sees whom.</param>
    public abstract Tensor Forward(Tensor x, RotaryAngles? angles, Tensor positions, AttentionContext context);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (LinearLayer linear in Linears)
        {
            linear.Dispose();
        }

        DisposeOwn();
    }

    /// <summary>Frees the tensors that belong to no linear layer.</summary>
    protected abstract void DisposeOwn();
}

/// <summary>Multi-head attention with shared key/value heads (Ainslie et al. 2023, "GQA").</summary>
internal sealed class SelfAttention : AttentionLayer
{
    private readonly AttentionConfig _config;
    private readonly int _layer;
    private readonly AttentionSpec _spec;
    private readonly LinearLayer? _qkv;
    private readonly LinearLayer? _query;
    private readonly LinearLayer? _key;
    private readonly LinearLayer? _value;
    private readonly LinearLayer _output;
    private readonly HeadNorm? _queryNorm;
    private readonly HeadNorm? _keyNorm;
    private readonly AlibiBias? _alibi;
    private readonly Tensor? _sinks;
    private readonly string _path;

    public SelfAttention(DecoderConfig config, int layer, ILinearFactory factory, WeightReader weights)
    {
        _config = config.Attention;
        _layer = layer;
        _path = $"{config.Names.Layer(layer)}.{config.Names.Attention}";
        long d = config.HiddenSize;
        long q = (long)_config.Heads * _config.HeadSize;
        long kv = (long)_config.KeyValueHeads * _config.HeadSize;
        if (config.Names.Qkv is { } fused)
        {
            _qkv = factory.CreateLinear(new($"{_path}.{fused}", d, q + (2 * kv), _config.QkvBias) { IsConv1D = _config.Conv1D }, weights);
        }
        else
        {
            _query = factory.CreateLinear(new(_path + ".q_proj", d, q, _config.QkvBias), weights);
            _key = factory.CreateLinear(new(_path + ".k_proj", d, kv, _config.QkvBias), weights);
            _value = factory.CreateLinear(new(_path + ".v_proj", d, kv, _config.QkvBias), weights);
        }

        _output = factory.CreateLinear(new($"{_path}.{config.Names.Output}", q, d, _config.OutputBias) { IsConv1D = _config.Conv1D }, weights);
        if (_config.QueryKeyNorm != QueryKeyNorm.None)
        {
            _queryNorm = new(config, $"{_path}.{_config.QueryKeyNames.Query}", _config.Heads, factory, weights);
            _keyNorm = new(config, $"{_path}.{_config.QueryKeyNames.Key}", _config.KeyValueHeads, factory, weights);
        }

        _alibi = _config.Alibi ? new(_config.Heads, _config.KeyValueHeads) : null;
        _sinks = _config.Sinks ? factory.CreateParameter(_path + ".sinks", [_config.Heads], weights) : null;
        _spec = new()
        {
            Scale = _config.ScaleByLayer ? _config.Scale / (layer + 1) : _config.Scale,
            Window = config.Layers[layer].Window,
            SoftCap = _config.SoftCap,
            Sinks = _sinks,
        };
    }

    public override IEnumerable<LinearLayer> Linears =>
        _qkv is not null ? [_qkv, _output] : [_query!, _key!, _value!, _output];

    public override IEnumerable<NamedTensor> OwnParameters =>
    [
        .. _queryNorm?.Parameters ?? [],
        .. _keyNorm?.Parameters ?? [],
        .. _sinks is null ? [] : new NamedTensor[] { new(_path + ".sinks", _sinks) },
    ];

    public override Tensor Forward(Tensor x, RotaryAngles? angles, Tensor positions, AttentionContext context)
    {
        using var scope = NewDisposeScope();
        long b = x.shape[0], s = x.shape[1];
        (Tensor q, Tensor k, Tensor v) = Project(x, b, s);
        if (angles is not null)
        {
            q = RotaryEmbedding.Apply(q, angles);
            k = RotaryEmbedding.Apply(k, angles);
        }

        if (_alibi is not null)
        {
            (q, k) = (_alibi.Query(q), _alibi.Key(k, positions));
        }

        Tensor mixed = context.Attend(_layer, q, k, v, _spec);
        Tensor joined = mixed.transpose(1, 2).reshape(b, s, (long)_config.Heads * _config.HeadSize);
        return _output.Forward(joined).MoveToOuterDisposeScope();
    }

    protected override void DisposeOwn()
    {
        _queryNorm?.Dispose();
        _keyNorm?.Dispose();
        _sinks?.Dispose();
    }

    // q [b, h, s, e], k and v [b, hk, s, e], normed.
    private (Tensor Q, Tensor K, Tensor V) Project(Tensor x, long b, long s)
    {
        int h = _config.Heads, hk = _config.KeyValueHeads, e = _config.HeadSize;
        Tensor q, k, v;
        if (_qkv is null)
        {
            (q, k, v) = (_query!.Forward(x), _key!.Forward(x), _value!.Forward(x));
        }
        else
        {
            Tensor all = _qkv.Forward(x);
            if (_config.Layout == QkvLayout.Grouped)
            {
                Tensor groups = all.view(b, s, hk, (h / hk) + 2, e);
                q = groups.narrow(3, 0, h / hk).reshape(b, s, (long)h * e);
                k = groups.select(3, h / hk).reshape(b, s, (long)hk * e);
                v = groups.select(3, (h / hk) + 1).reshape(b, s, (long)hk * e);
            }
            else
            {
                q = all.narrow(-1, 0, h * e);
                k = all.narrow(-1, h * e, hk * e);
                v = all.narrow(-1, (h + hk) * e, hk * e);
            }
        }

        if (_config.QueryKeyNorm == QueryKeyNorm.Full)
        {
            q = _queryNorm!.Forward(q);
            k = _keyNorm!.Forward(k);
        }

        if (_config.Clip is { } limit)
        {
            (q, k, v) = (q.clamp(-limit, limit), k.clamp(-limit, limit), v.clamp(-limit, limit));
        }

        q = q.view(b, s, h, e);
        k = k.view(b, s, hk, e);
        if (_config.QueryKeyNorm is QueryKeyNorm.PerHead or QueryKeyNorm.EachHead)
        {
            q = _queryNorm!.Forward(q);
            k = _keyNorm!.Forward(k);
        }

        return (q.transpose(1, 2), k.transpose(1, 2), v.view(b, s, hk, e).transpose(1, 2));
    }
}
