using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Fused;

/// <summary>What attention keeps from its forward for its backward pass.</summary>
internal sealed class AttentionState : IDisposable
{
    private readonly List<Tensor> _tensors = [];

    /// <summary>Of <see cref="FusedAttention.Rows"/>: query, key, value, output; of <see cref="FusedAttention.Packed"/>: logsumexp, random state, unused.</summary>
    public IReadOnlyList<Tensor> Tensors => _tensors;

    /// <summary>Attention's output [n, h·e].</summary>
    public Tensor Output { get; private set; } = null!;

    /// <summary>Takes a tensor over.</summary>
    public Tensor Keep(Tensor tensor)
    {
        _tensors.Add(tensor.DetachFromDisposeScope());
        return tensor;
    }

    /// <summary>Takes the output over.</summary>
    public void KeepOutput(Tensor output) => Output = Keep(output);

    /// <summary>Frees what was kept.</summary>
    public void Dispose()
    {
        _tensors.ForEach(t => t.Dispose());
        _tensors.Clear();
    }
}

/// <summary>
/// Causal attention: rows that are one sequence each by the fastest kernel libtorch has for them (cuDNN's on Hopper, 0.66 of
/// FlashAttention's time), packed rows by FlashAttention (Dao 2023) with sequence borders.
/// </summary>
internal static class FusedAttention
{
    /// <summary>Rows of one sequence each: q [n, h, e], k and v [n, hk, e]; the output is kept.</summary>
    /// <remarks>
    /// The one place that uses autograd: the stable interface cannot call cuDNN's operator, whose results are not all tensors.
    /// cuDNN's kernel with borders would serve packed rows too, but libtorch 2.11 plans it anew at each call, which no CUDA graph
    /// can hold, and its backward pass takes q, k and v in one row for ones by themselves.
    /// </remarks>
    public static void Rows(Tensor q, Tensor k, Tensor v, long rows, double scale, AttentionState state)
    {
        using IDisposable graph = enable_grad();
        Tensor query = state.Keep(ByRow(q, rows).detach().requires_grad_());
        Tensor key = state.Keep(ByRow(k, rows).detach().requires_grad_());
        Tensor value = state.Keep(ByRow(v, rows).detach().requires_grad_());
        Tensor output = state.Keep(new AtenCall("aten::scaled_dot_product_attention").Add(query).Add(key).Add(value).AddOptional((Tensor?)null)
            .Add(0.0).Add(true).AddOptional(scale).Add(q.size(1) != k.size(1)).InvokeTensor());
        state.KeepOutput(output.detach().transpose(1, 2).reshape(q.size(0), -1));
    }

    /// <summary>Gradients of <see cref="Rows"/>, shaped as its arguments.</summary>
    public static (Tensor Query, Tensor Key, Tensor Value) RowsBackward(Tensor gradient, long rows, AttentionState state)
    {
        IReadOnlyList<Tensor> t = state.Tensors;
        autograd.backward([t[3]], [ByRow(gradient, rows)]);
        return (ByToken(t[0].grad!), ByToken(t[1].grad!), ByToken(t[2].grad!));
    }

    /// <summary>q [n, h, e], k and v [n, hk, e] with sequence borders (int32, [sequences + 1]); the output is kept.</summary>
    public static void Packed(Tensor q, Tensor k, Tensor v, Tensor borders, long longest, double scale, AttentionState state)
    {
        ReadOnlySpan<ulong> r = new AtenCall("aten::_flash_attention_forward").Add(q).Add(k).Add(v).AddOptional(borders).AddOptional(borders).Add(longest).Add(longest)
            .Add(0.0).Add(true).Add(false).AddOptional(scale).AddOptional((long?)null).AddOptional((long?)null).AddOptional((Tensor?)null).AddOptional((Tensor?)null).Invoke();
        state.Keep(AtenCall.Tensor(r[1]));
        state.Keep(AtenCall.Tensor(r[2]));
        state.Keep(AtenCall.Tensor(r[3]));
        AtenCall.Tensor(r[4]).Dispose();
        state.KeepOutput(AtenCall.Tensor(r[0]).view(q.size(0), -1));
    }

    /// <summary>Gradients of <see cref="Packed"/>.</summary>
    public static (Tensor Query, Tensor Key, Tensor Value) PackedBackward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor borders, long longest, double scale, AttentionState state)
    {
        IReadOnlyList<Tensor> t = state.Tensors;
        ReadOnlySpan<ulong> r = new AtenCall("aten::_flash_attention_backward").Add(gradient).Add(q).Add(k).Add(v).Add(state.Output.view(q.shape)).Add(t[0]).Add(borders).Add(borders)
            .Add(longest).Add(longest).Add(0.0).Add(true).Add(t[1]).Add(t[2]).AddOptional(scale).AddOptional((long?)null).AddOptional((long?)null).Invoke();
        return (AtenCall.Tensor(r[0]), AtenCall.Tensor(r[1]), AtenCall.Tensor(r[2]));
    }

    // [n, h, e] → [b, h, s, e].
    private static Tensor ByRow(Tensor tokens, long rows) => tokens.view(rows, -1, tokens.size(1), tokens.size(2)).transpose(1, 2);

    private static Tensor ByToken(Tensor rows) => rows.transpose(1, 2).reshape(-1, rows.size(1), rows.size(3));
}
