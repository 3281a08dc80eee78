using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Fused;

/// <summary>What attention keeps from its forward for its backward pass.</summary>
internal sealed class AttentionState : IDisposable
{
    private readonly List<Tensor> _tensors = [];

    /// <summary>cuDNN: logsumexp, cum_seq_q, cum_seq_k, philox seed, philox offset; flash: logsumexp, rng state, unused.</summary>
    public IReadOnlyList<Tensor> Tensors => _tensors;

    /// <summary>Longest sequences as the operator returned them.</summary>
    public (long Query, long Key) Longest { get; set; }

    /// <summary>Takes over a result.</summary>
    public void Keep(ulong result) => _tensors.Add(AtenCall.Tensor(result).DetachFromDisposeScope());

    /// <summary>Frees what was kept.</summary>
    public void Dispose()
    {
        foreach (Tensor tensor in _tensors)
        {
            tensor.Dispose();
        }

        _tensors.Clear();
    }
}

/// <summary>Causal attention by cuDNN for rows that are one sequence each, by FlashAttention with sequence borders for packed ones.</summary>
internal static class FusedAttention
{
    /// <summary>q [b, h, s, e], k and v [b, hk, s, e] → [b, h, s, e].</summary>
    public static Tensor Dense(Tensor q, Tensor k, Tensor v, double scale, AttentionState state)
    {
        ReadOnlySpan<ulong> r = new AtenCall("aten::_scaled_dot_product_cudnn_attention").Add(q).Add(k).Add(v).AddOptional((Tensor?)null)
            .Add(true).Add(0.0).Add(true).Add(false).AddOptional(scale).Invoke();
        foreach (int i in (int[])[1, 2, 3, 6, 7])
        {
            state.Keep(r[i]);
        }

        AtenCall.Tensor(r[8]).Dispose();
        state.Longest = ((long)r[4], (long)r[5]);
        return AtenCall.Tensor(r[0]);
    }

    /// <summary>Gradients of <see cref="Dense"/>.</summary>
    public static (Tensor Query, Tensor Key, Tensor Value) DenseBackward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor output, double scale, AttentionState state)
    {
        IReadOnlyList<Tensor> t = state.Tensors;
        using Tensor none = AtenTensor.Undefined();
        ReadOnlySpan<ulong> r = new AtenCall("aten::_scaled_dot_product_cudnn_attention_backward").Add(gradient).Add(q).Add(k).Add(v).Add(output)
            .Add(t[0]).Add(t[3]).Add(t[4]).Add(none).Add(t[1]).Add(t[2]).Add(state.Longest.Query).Add(state.Longest.Key).Add(0.0).Add(true).AddOptional(scale).Invoke();
        return (AtenCall.Tensor(r[0]), AtenCall.Tensor(r[1]), AtenCall.Tensor(r[2]));
    }

    /// <summary>q [n, h, e], k and v [n, hk, e] with sequence borders (int32, [sequences + 1]) → [n, h, e].</summary>
    public static Tensor Packed(Tensor q, Tensor k, Tensor v, Tensor borders, long longest, double scale, AttentionState state)
    {
        ReadOnlySpan<ulong> r = new AtenCall("aten::_flash_attention_forward").Add(q).Add(k).Add(v).AddOptional(borders).AddOptional(borders).Add(longest).Add(longest)
            .Add(0.0).Add(true).Add(false).AddOptional(scale).AddOptional((long?)null).AddOptional((long?)null).AddOptional((Tensor?)null).AddOptional((Tensor?)null).Invoke();
        state.Keep(r[1]);
        state.Keep(r[2]);
        state.Keep(r[3]);
        AtenCall.Tensor(r[4]).Dispose();
        return AtenCall.Tensor(r[0]);
    }

    /// <summary>Gradients of <see cref="Packed"/>.</summary>
    public static (Tensor Query, Tensor Key, Tensor Value) PackedBackward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor output, Tensor borders, long longest, double scale, AttentionState state)
    {
        IReadOnlyList<Tensor> t = state.Tensors;
        ReadOnlySpan<ulong> r = new AtenCall("aten::_flash_attention_backward").Add(gradient).Add(q).Add(k).Add(v).Add(output).Add(t[0]).Add(borders).Add(borders)
            .Add(longest).Add(longest).Add(0.0).Add(true).Add(t[1]).Add(t[2]).AddOptional(scale).AddOptional((long?)null).AddOptional((long?)null).Invoke();
        return (AtenCall.Tensor(r[0]), AtenCall.Tensor(r[1]), AtenCall.Tensor(r[2]));
    }
}
