using LoraSharp.Layers;
using LoraSharp.Training.Optimizers;
using static TorchSharp.torch;

namespace LoraSharp.Training;

/// <summary>Exponential moving average of the trained weights, in float32; it can take their place for a while.</summary>
internal sealed class WeightAverage : IDisposable
{
    private readonly IReadOnlyList<TrainedParameter> _parameters;
    private readonly double _decay;
    private readonly Tensor[] _averages;

    public WeightAverage(IReadOnlyList<TrainedParameter> parameters, double decay)
    {
        using var none = no_grad();
        _parameters = parameters;
        _decay = decay;
        _averages = [.. parameters.Select(p => p.Weight.detach().clone().DetachFromDisposeScope())];
    }

    /// <summary>For a checkpoint: <c>ema.NAME</c>.</summary>
    public IReadOnlyList<NamedTensor> State => [.. _parameters.Zip(_averages, (p, a) => new NamedTensor("ema." + p.Name, a))];

    /// <summary>Takes the weights of after an optimizer step in. The decay grows with the steps, so that the start is soon forgotten.</summary>
    public void Update(long step)
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Tensor share = 1 - Math.Min(_decay, (1.0 + step) / (10.0 + step));
        for (int i = 0; i < _averages.Length; i++)
        {
            _averages[i].lerp_(_parameters[i].Weight, share.to(ScalarType.Float32));
        }
    }

    /// <summary>Puts the averages into the model until the result is disposed.</summary>
    public IDisposable Apply()
    {
        using var none = no_grad();
        Tensor[] trained = [.. _parameters.Select(p => p.Parameter.detach().clone().DetachFromDisposeScope())];
        Publish();
        return new Restore(_parameters, trained);
    }

    /// <summary>Puts the averages into the model for good.</summary>
    public void Publish()
    {
        using var none = no_grad();
        for (int i = 0; i < _averages.Length; i++)
        {
            _parameters[i].Parameter.copy_(_averages[i]);
        }
    }

    public void Dispose()
    {
        foreach (Tensor average in _averages)
        {
            average.Dispose();
        }
    }

    private sealed class Restore(IReadOnlyList<TrainedParameter> parameters, Tensor[] trained) : IDisposable
    {
        public void Dispose()
        {
            using var none = no_grad();
            for (int i = 0; i < trained.Length; i++)
            {
                parameters[i].Parameter.copy_(trained[i]);
                trained[i].Dispose();
            }
        }
    }
}
