using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Fused;

/// <summary>What attention keeps from its forward for its backward pass.</summary>
internal sealed class AttentionState : IDisposable
{
    private readonly List<Tensor> _tensors = [];

    /// <summary>Dense: q, k, v as leaves and the output with its graph; packed: logsumexp, random state, unused.</summary>
    public IReadOnlyList<Tensor> Tensors => _tensors;

    /// <summary>Takes a tensor over.</summary>
    public Tensor Keep(Tensor tensor)
    {
        Tensor kept = tensor.DetachFromDisposeScope();
        _tensors.Add(kept);
        return kept;
    }

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

/// <summary>Causal attention for rows that are one sequence each, and by FlashAttention with sequence borders for packed ones.</summary>
internal static class FusedAttention
{
    /// <summary>q [b, h, s, e], k and v [b, hk, s, e] → [b, h, s, e]; which kernel runs is libtorch's choice among those that are enabled.</summary>
    /// <remarks>The one place that uses autograd: the stable interface cannot call cuDNN's operator, whose results are not all tensors.</remarks>
    public static Tensor Dense(Tensor q, Tensor k, Tensor v, double scale, AttentionState state)
    {
        using IDisposable graph = enable_grad();
        Tensor query = state.Keep(q.detach().requires_grad_());
        Tensor key = state.Keep(k.detach().requires_grad_());
        Tensor value = state.Keep(v.detach().requires_grad_());
        Tensor output = state.Keep(new AtenCall("aten::scaled_dot_product_attention").Add(query).Add(key).Add(value).AddOptional((Tensor?)null)
            .Add(0.0).Add(true).AddOptional(scale).Add(q.size(1) != k.size(1)).InvokeTensor());
        return output.detach();
    }

    /// <summary>Gradients of <see cref="Dense"/>.</summary>
    public static (Tensor Query, Tensor Key, Tensor Value) DenseBackward(Tensor gradient, AttentionState state)
    {
        IReadOnlyList<Tensor> t = state.Tensors;
        autograd.backward([t[3]], [gradient]);
        return (t[0].grad!, t[1].grad!, t[2].grad!);
    }

    /// <summary>q [n, h, e], k and v [n, hk, e] with sequence borders (int32, [sequences + 1]) → [n, h, e].</summary>
    public static Tensor Packed(Tensor q, Tensor k, Tensor v, Tensor borders, long longest, double scale, AttentionState state)
    {
        ReadOnlySpan<ulong> r = new AtenCall("aten::_flash_attention_forward").Add(q).Add(k).Add(v).AddOptional(borders).AddOptional(borders).Add(longest).Add(longest)
            .Add(0.0).Add(true).Add(false).AddOptional(scale).AddOptional((long?)null).AddOptional((long?)null).AddOptional((Tensor?)null).AddOptional((Tensor?)null).Invoke();
        state.Keep(AtenCall.Tensor(r[1]));
        state.Keep(AtenCall.Tensor(r[2]));
        state.Keep(AtenCall.Tensor(r[3]));
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
