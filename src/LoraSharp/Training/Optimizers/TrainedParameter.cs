using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Optimizers;

/// <summary>
/// One thing the optimizer updates: a parameter, its float32 master copy when the parameter itself is of a lower
/// precision, and its float32 gradient.
/// </summary>
public sealed class TrainedParameter : IDisposable
{
    private readonly List<Tensor> _tied = [];

    internal TrainedParameter(NamedTensor parameter)
    {
        Name = parameter.Name;
        Parameter = parameter.Value;
        _tied.Add(parameter.Value);
        IsMastered = parameter.Value.dtype != ScalarType.Float32;
        using var none = no_grad();
        Weight = IsMastered ? parameter.Value.to(ScalarType.Float32).DetachFromDisposeScope() : parameter.Value;
        Gradient = null!;
        RawGradient = null!;
    }

    /// <summary>Name in the state dict.</summary>
    public string Name { get; }

    /// <summary>The layer's tensor; owned by the layer.</summary>
    public Tensor Parameter { get; }

    /// <summary>float32: the parameter itself, or its master copy, which small updates are not lost in.</summary>
    public Tensor Weight { get; }

    /// <summary>float32, of the whole optimizer step.</summary>
    public Tensor Gradient { get; internal set; }

    /// <summary>What autograd adds to; the same tensor as <see cref="Gradient"/> where the parameter is float32.</summary>
    internal Tensor RawGradient { get; set; }

    /// <summary>Whether <see cref="Weight"/> is a copy.</summary>
    public bool IsMastered { get; }

    /// <summary>Two names of one memory (tied embeddings) are one parameter, whose gradients add up.</summary>
    internal static IReadOnlyList<TrainedParameter> Create(IReadOnlyList<NamedTensor> parameters)
    {
        Dictionary<nint, TrainedParameter> byAddress = [];
        List<TrainedParameter> result = [];
        foreach (NamedTensor parameter in parameters)
        {
            nint address = AtenTensor.DataPointer(parameter.Value);
            if (byAddress.TryGetValue(address, out TrainedParameter? first) && first.Parameter.shape.SequenceEqual(parameter.Value.shape))
            {
                first._tied.Add(parameter.Value);
                continue;
            }

            TrainedParameter created = new(parameter);
            byAddress[address] = created;
            result.Add(created);
        }

        return result;
    }

    internal void AttachGradient()
    {
        foreach (Tensor tensor in _tied)
        {
            tensor.grad = RawGradient;
        }
    }

    internal void DetachGradient()
    {
        foreach (Tensor tensor in _tied)
        {
            tensor.grad = null;
        }
    }

    /// <summary>Puts the master copy's value into the layer's tensor.</summary>
    internal void Publish()
    {
        if (IsMastered)
        {
            Parameter.copy_(Weight);
        }
    }

    /// <summary>Frees the master copy.</summary>
    public void Dispose()
    {
        if (IsMastered)
        {
            Weight.Dispose();
        }
    }
}
