using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>Attention by plain matrix products: the reference, and what runs where no fused operator fits.</summary>
internal static class AttentionMath
{
    /// <summary>softmax(cap(q·kᵀ·scale) + bias)·v without copying k and v for the heads that share them.</summary>
    /// <param name="query">[b, h, s, e].</param>
    /// <param name="key">[b, hk, t, e].</param>
    /// <param name="value">[b, hk, t, ev].</param>
    /// <param name="spec">Scale, cap, sinks (the window is part of <paramref name="bias"/>).</param>
    /// <param name="bias">0 where seen and -∞ where not, broadcast to [b, 1, s, t], float32; null to see everything.</param>
    public static Tensor Plain(Tensor query, Tensor key, Tensor value, AttentionSpec spec, Tensor? bias)
    {
        using var scope = NewDisposeScope();
        long b = query.shape[0], h = query.shape[1], s = query.shape[2], e = query.shape[3];
        long hk = key.shape[1], t = key.shape[2];
        Tensor grouped = query.reshape(b, hk, h / hk * s, e);
        Tensor scores = grouped.matmul(key.transpose(-1, -2)).view(b, h, s, t).to(ScalarType.Float32) * spec.Scale;
        if (spec.SoftCap is { } cap)
        {
            scores = (scores / cap).tanh() * cap;
        }

        if (bias is not null)
        {
            scores = scores + bias;
        }

        Tensor probabilities;
        if (spec.Sinks is null)
        {
            probabilities = nn.functional.softmax(scores, -1);
        }
        else
        {
            // The sink is one more logit a head: it takes its share of the softmax and carries no value.
            Tensor sinks = spec.Sinks.to(ScalarType.Float32).view(1, h, 1, 1).expand(b, h, s, 1);
            probabilities = nn.functional.softmax(cat([scores, sinks], -1), -1).narrow(-1, 0, t);
        }

        Tensor mixed = probabilities.to(value.dtype).reshape(b, hk, h / hk * s, t).matmul(value);
        return mixed.view(b, h, s, value.shape[3]).MoveToOuterDisposeScope();
    }

    /// <summary>The fused operator of libtorch; key and value are expanded to the query's heads.</summary>
    /// <param name="query">[b, h, s, e].</param>
    /// <param name="key">[b, hk, t, e].</param>
    /// <param name="value">[b, hk, t, e].</param>
    /// <param name="scale">Factor on q·kᵀ.</param>
    /// <param name="seen">True where a query sees a key, broadcast to [b, 1, s, t]; null with <paramref name="causal"/> for the triangle, else for everything.</param>
    /// <param name="causal">Whether a token sees no later one.</param>
    public static Tensor Fused(Tensor query, Tensor key, Tensor value, double scale, Tensor? seen, bool causal)
    {
        using var scope = NewDisposeScope();
        long e = query.shape[3];
        double own = 1 / Math.Sqrt(e);
        if (Math.Abs(scale - own) > 1e-9 * own)
        {
            query = query * (scale / own);
        }

        key = Repeat(key, query.shape[1]);
        value = Repeat(value, query.shape[1]);
        return nn.functional.scaled_dot_product_attention(query, key, value, seen!, 0, causal).MoveToOuterDisposeScope();
    }

    /// <summary>Whether <see cref="Fused"/> computes what the spec asks for.</summary>
    public static bool CanFuse(AttentionSpec spec, Tensor query, Tensor value) =>
        spec.SoftCap is null && spec.Sinks is null && query.shape[3] == value.shape[3];

    /// <summary>True → 0, false → -∞; float32.</summary>
    public static Tensor ToBias(Tensor seen)
    {
        using var scope = NewDisposeScope();
        Tensor bias = zeros(seen.shape, ScalarType.Float32, seen.device);
        return bias.masked_fill(seen.logical_not(), float.NegativeInfinity).MoveToOuterDisposeScope();
    }

    /// <summary>Keys or values [b, hk, t, e], each repeated for the query heads that share it: [b, h, t, e].</summary>
    public static Tensor Repeat(Tensor x, long heads)
    {
        long hk = x.shape[1];
        return hk == heads ? x : x.unsqueeze(2).expand(x.shape[0], hk, heads / hk, x.shape[2], x.shape[3]).reshape(x.shape[0], heads, x.shape[2], x.shape[3]);
    }
}
