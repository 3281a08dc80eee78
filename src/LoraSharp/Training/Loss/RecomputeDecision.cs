using LoraSharp.Adapters;
using LoraSharp.Layers;
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
        _budget = budget ?? (model.Device.type == DeviceType.CPU ? HostBudget : GpuBudget);
        _bytesPerToken = BytesPerToken(model);
    }

    /// <summary>Bytes that activations may take on a CPU before they are computed again: 40 % of this machine's memory.</summary>
    public static double HostBudget => GC.GetGCMemoryInfo().TotalAvailableMemoryBytes * ShareOfMemory;

    private static double BytesPerToken(CausalLanguageModel model)
    {
        LinearLayer[] inBlocks = [.. model.Linears.Where(l => !l.Spec.IsOutputHead)];
        return ActivationMemory.BytesPerToken(
            inBlocks.Select(l => ((long)l.Spec.OutFeatures, (long)l.Spec.InFeatures)),
            model.LayerCount,
            model.Config.HiddenSize,
            model.DType == TorchSharp.torch.ScalarType.Float32 ? 4 : 2,
            inBlocks.Any(l => l is LoraLinear));
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
