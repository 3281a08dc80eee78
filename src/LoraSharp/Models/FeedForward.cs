using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>What stands in a block after attention.</summary>
internal abstract class FeedForwardLayer : IDisposable
{
    /// <summary>The linear layers, in the order of the state dict.</summary>
    public abstract IEnumerable<LinearLayer> Linears { get; }

    /// <summary>Tensors that belong to no linear layer.</summary>
    public virtual IEnumerable<NamedTensor> OwnParameters => [];

    /// <summary>x [b, s, d] → [b, s, d].</summary>
    public abstract Tensor Forward(Tensor x);

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
    protected virtual void DisposeOwn()
    {
    }
}

/// <summary>down(act(gate(x)) · up(x)) (Shazeer 2020), with gate and up separate or in one layer.</summary>
internal sealed class GatedFeedForward : FeedForwardLayer
{
    private readonly Activation _activation;
    private readonly LinearLayer? _gate;
    private readonly LinearLayer _up;
    private readonly LinearLayer _down;
    private readonly int _size;

    /// <summary>Separate layers, or (with <paramref name="gate"/> null) <paramref name="up"/> giving [gate | up].</summary>
    public GatedFeedForward(Activation activation, int size, LinearLayer? gate, LinearLayer up, LinearLayer down)
    {
        _activation = activation;
        _size = size;
        _gate = gate;
        _up = up;
        _down = down;
    }

    public override IEnumerable<LinearLayer> Linears => _gate is null ? [_up, _down] : [_gate, _up, _down];

    /// <summary>Asks for the three layers.</summary>
    /// <param name="path">Of the block.</param>
    /// <param name="names">Of the layers below it.</param>
    /// <param name="hidden">d.</param>
    /// <param name="size">f.</param>
    /// <param name="activation">Of the gate.</param>
    /// <param name="bias">Whether the layers have biases.</param>
    /// <param name="factory">Makes them.</param>
    /// <param name="weights">Where their weights come from.</param>
    /// <param name="expert">Of one of many experts: the path of the stacks, its index and their number.</param>
    public static GatedFeedForward Create(
        string path,
        (string Gate, string Up, string Down) names,
        long hidden,
        int size,
        Activation activation,
        bool bias,
        ILinearFactory factory,
        WeightReader weights,
        (string Stacks, int Index, int Count)? expert = null)
    {
        StackSlice? Slice(string stack, long firstRow, long rows) =>
            expert is var (stacks, index, count) ? new($"{stacks}.{stack}", index, count, firstRow, rows) : null;

        return new(
            activation,
            size,
            factory.CreateLinear(new($"{path}.{names.Gate}", hidden, size, bias) { Stack = Slice("gate_up_proj", 0, 2L * size) }, weights),
            factory.CreateLinear(new($"{path}.{names.Up}", hidden, size, bias) { Stack = Slice("gate_up_proj", size, 2L * size) }, weights),
            factory.CreateLinear(new($"{path}.{names.Down}", size, hidden, bias) { Stack = Slice("down_proj", 0, hidden) }, weights));
    }

    public override Tensor Forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor gate, up;
        if (_gate is null)
        {
            Tensor both = _up.Forward(x);
            gate = both.narrow(-1, 0, _size);
            up = both.narrow(-1, _size, _size);
        }
        else
        {
            gate = _gate.Forward(x);
            up = _up.Forward(x);
        }

        return _down.Forward(_activation.Gate(gate, up)).MoveToOuterDisposeScope();
    }
}

/// <summary>down(act(up(x))).</summary>
internal sealed class PlainFeedForward(Activation activation, LinearLayer up, LinearLayer down) : FeedForwardLayer
{
    public override IEnumerable<LinearLayer> Linears => [up, down];

    public override Tensor Forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        return down.Forward(activation.Apply(up.Forward(x))).MoveToOuterDisposeScope();
    }
}
