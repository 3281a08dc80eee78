using LoraSharp.Models;
using LoraSharp.Training.Data;
using TorchSharp;

namespace LoraSharp.Training.Loss;

/// <summary>Whether a micro-batch's activations are kept or computed again.</summary>
public sealed class RecomputeDecision
{
    // On a GPU of unknown size: what is left on a 24 GB card beside a model of a few billion weights.
    private const double GpuBudget = 8e9;
    private const double ShareOfMemory = 0.4;
    private readonly double _bytesPerToken;
    private readonly double _budget;
    private readonly GradientCheckpointing _wish;

    /// <summary>Creates the decision.</summary>
    /// <param name="model">What runs.</param>
    /// <param name="wish">On, off, or by the estimate.</param>
    /// <param name="budget">Bytes that activations may take; null: 40 % of this machine's memory.</param>
    public RecomputeDecision(CausalLanguageModel model, GradientCheckpointing wish, double? budget = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        _wish = wish;
        _budget = budget ?? (model.Device.type == DeviceType.CPU ? GC.GetGCMemoryInfo().TotalAvailableMemoryBytes * ShareOfMemory : GpuBudget);
        _bytesPerToken = BytesPerToken(model);
    }

    /// <summary>
    /// Bytes that autograd keeps for a token: of each linear layer its input and output, and about six more vectors of
    /// the hidden size a block for norms and residuals.
    /// </summary>
    public static double BytesPerToken(CausalLanguageModel model)
    {
        ArgumentNullException.ThrowIfNull(model);
        double values = model.Linears.Where(l => !l.Spec.IsOutputHead).Sum(l => l.Spec.OutFeatures + (0.5 * l.Spec.InFeatures))
            + (6.0 * model.LayerCount * model.Config.HiddenSize);
        return values * (model.DType == TorchSharp.torch.ScalarType.Float32 ? 4 : 2);
    }

    /// <summary>The decision for a micro-batch.</summary>
    public bool For(MicroBatch batch)
    {
        ArgumentNullException.ThrowIfNull(batch);
        return _wish switch
        {
            GradientCheckpointing.On => true,
            GradientCheckpointing.Off => false,
            _ => _bytesPerToken * batch.Rows * batch.Length > _budget,
        };
    }
}
