using LoraSharp.Formats;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Merging;

/// <summary>Sums up what storing in fewer bits does to an update.</summary>
internal sealed class RoundingStatistics
{
    private readonly HashSet<ElementType> _types = [];
    private double _update;
    private double _error;
    private long _wanted;
    private long _unchanged;

    public double UpdateNorm => Math.Sqrt(_update);

    public double Loss => _update > 0 ? Math.Sqrt(_error / _update) : 0;

    public double Unchanged => _wanted > 0 ? (double)_unchanged / _wanted : 0;

    public IReadOnlyList<ElementType> Types => [.. _types.Order()];

    /// <param name="before">As stored, float32.</param>
    /// <param name="after">As computed, float32.</param>
    /// <param name="type">To be stored as.</param>
    public void Add(Tensor before, Tensor after, ElementType type)
    {
        using var scope = NewDisposeScope();
        _types.Add(type);
        Tensor update = after - before;
        _update += update.square().sum().item<float>();
        if (type is ElementType.F32 or ElementType.F64)
        {
            return;
        }

        Tensor rounded = after.to(type.ToScalarType()).to(ScalarType.Float32);
        _error += (rounded - after).square().sum().item<float>();
        Tensor moved = update.ne(0);
        _wanted += moved.sum().item<long>();
        _unchanged += moved.logical_and(rounded.eq(before)).sum().item<long>();
    }
}
