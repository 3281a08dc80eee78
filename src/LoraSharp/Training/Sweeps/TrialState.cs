using LoraSharp.Adapters;
using LoraSharp.Layers;
using LoraSharp.Training.Optimizers;
using static TorchSharp.torch;

namespace LoraSharp.Training.Sweeps;

/// <summary>A trial that is being trained: its adapter, gradients, optimizer and record.</summary>
internal sealed class TrialState : IDisposable
{
    private readonly GradientBuffer _gradients;
    private readonly Optimizer _optimizer;
    private readonly LearningRateSchedule _schedule;
    private readonly List<double> _losses = [];
    private readonly SortedDictionary<long, double> _evalLosses = [];

    public TrialState(SweepTrial trial, LoraAdapter adapter, long totalSteps)
    {
        Trial = trial;
        Adapter = adapter;
        NamedTensor[] tensors = [.. adapter.Tensors];
        _gradients = new GradientBuffer(tensors);
        _optimizer = Optimizer.Create(_gradients, tensors, trial.Training);
        _schedule = trial.Training.CreateSchedule(totalSteps);
    }

    public SweepTrial Trial { get; }

    public LoraAdapter Adapter { get; }

    public bool Stopped { get; set; }

    public string? Fault { get; private set; }

    public bool IsRunning => !Stopped && Fault is null;

    public void Clear() => _gradients.Clear();

    public void Collect() => _gradients.Collect();

    /// <summary>Clips and updates, as a trainer of its own would.</summary>
    public void Step(long step, double loss)
    {
        using Tensor norm = _gradients.Norm();
        _gradients.Clip(norm, Trial.Training.MaxGradNorm);
        if (!double.IsFinite(loss) || !double.IsFinite(norm.item<float>()))
        {
            Fault = FormattableString.Invariant($"step {step + 1}: the loss is {loss}");
            return;
        }

        _optimizer.Step(_schedule.Factor(step));
        _losses.Add(loss);
    }

    public void Evaluated(long step, double loss) => _evalLosses[step] = loss;

    public TrialResult Result() => new(Trial, _gradients.Count, [.. _losses], new SortedDictionary<long, double>(_evalLosses), Stopped, Fault);

    public void Dispose()
    {
        _optimizer.Dispose();
        _gradients.Dispose();
    }
}
