using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>
/// Attention with linear biases (Press et al. 2021, section 3), as Falcon-RW has it: slope · position of the key is added to
/// q·kᵀ, before the scale. It travels in the product itself: a key gets one more value for each query head that shares it, and
/// a query picks its own by a one, so that every kind of cache and mask works on it unchanged.
/// </summary>
internal sealed class AlibiBias
{
    private readonly int _heads;
    private readonly int _keyHeads;

    public AlibiBias(int heads, int keyHeads)
    {
        _heads = heads;
        _keyHeads = keyHeads;
    }

    /// <summary>A slope a head: a geometric sequence from 2^(-8/h), and for another number than a power of two every second one of the next power's.</summary>
    public static float[] Slopes(int heads)
    {
        int power = 1 << (int)Math.Floor(Math.Log2(heads));
        double Start(int n) => Math.Pow(2, -Math.Pow(2, -(Math.Log2(n) - 3)));
        return
        [
            .. Enumerable.Range(1, power).Select(i => (float)Math.Pow(Start(power), i)),
            .. Enumerable.Range(0, heads - power).Select(i => (float)Math.Pow(Start(2 * power), (2 * i) + 1)),
        ];
    }

    /// <summary>q [b, h, s, e] → [b, h, s, e + h/hk].</summary>
    public Tensor Query(Tensor query)
    {
        using var scope = NewDisposeScope();
        int group = _heads / _keyHeads;
        Tensor own = eye(group, group, query.dtype, query.device).repeat(_keyHeads, 1).view(1, _heads, 1, group);
        return cat([query, own.expand(query.shape[0], _heads, query.shape[2], group)], -1).MoveToOuterDisposeScope();
    }

    /// <summary>k [b, hk, s, e] → [b, hk, s, e + h/hk].</summary>
    /// <param name="key">Of the new tokens.</param>
    /// <param name="positions">[b, s] or [1, s].</param>
    public Tensor Key(Tensor key, Tensor positions)
    {
        using var scope = NewDisposeScope();
        long b = key.shape[0], s = key.shape[2];
        int group = _heads / _keyHeads;

        // The reference multiplies in bfloat16 whatever the model computes in; far from the beginning that shows.
        Tensor slopes = tensor(Slopes(_heads), device: key.device).to(ScalarType.BFloat16).view(1, _keyHeads, 1, group);
        Tensor biases = slopes * positions.to(ScalarType.BFloat16).view(-1, 1, s, 1);
        return cat([key, biases.to(key.dtype).expand(b, _keyHeads, s, group)], -1).MoveToOuterDisposeScope();
    }
}
