using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Training.Optimizers;

/// <summary>
/// Updates parameters from their gradients. State is kept by parameter name, in float32, and can be saved and restored
/// exactly.
/// </summary>
public abstract class Optimizer : IDisposable
{
    private readonly Dictionary<string, Tensor> _state = new(StringComparer.Ordinal);

    /// <summary>Creates the optimizer over the parameters of <paramref name="gradients"/>.</summary>
    protected Optimizer(GradientBuffer gradients, IReadOnlyList<ParameterGroup> groups)
    {
        ArgumentNullException.ThrowIfNull(gradients);
        ArgumentNullException.ThrowIfNull(groups);
        Dictionary<string, TrainedParameter> byName = gradients.Parameters.ToDictionary(p => p.Name, StringComparer.Ordinal);

        // A tied parameter's second name has no entry of its own: the first one stands for both.
        Groups = [.. groups.Select(g => new OptimizerGroup(
            [.. g.Parameters.Where(p => byName.ContainsKey(p.Name)).Select(p => byName[p.Name])], g.LearningRate, g.WeightDecay))];
        Gradients = gradients;
    }

    /// <summary>The optimizer that the options ask for.</summary>
    /// <param name="gradients">Parameters and their gradients.</param>
    /// <param name="trainable">The same parameters, for their groups.</param>
    /// <param name="options">Kind, rates, decays.</param>
    public static Optimizer Create(GradientBuffer gradients, IReadOnlyList<NamedTensor> trainable, TrainerOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        IReadOnlyList<ParameterGroup> groups = ParameterGroup.Create(trainable, options);
        return options.Optimizer switch
        {
            OptimizerKind.Sgd => new Sgd(gradients, groups, options.Momentum ?? 0),
            OptimizerKind.Muon => new Muon(gradients, groups, options),
            OptimizerKind.AdamW8bit => new AdamW8bit(gradients, groups, options),
            _ => new AdamW(gradients, groups, options),
        };
    }

    /// <summary>Updates made so far.</summary>
    public long Steps { get; private set; }

    /// <summary>The gradients it reads.</summary>
    protected GradientBuffer Gradients { get; }

    /// <summary>Its parameters by learning rate and decay.</summary>
    protected IReadOnlyList<OptimizerGroup> Groups { get; }

    /// <summary>State tensors by name, e.g. <c>exp_avg.NAME</c>, and the master copies as <c>master.NAME</c>; owned by the optimizer.</summary>
    public IEnumerable<NamedTensor> State => _state.Select(s => new NamedTensor(s.Key, s.Value))
        .Concat(Gradients.Parameters.Where(p => p.IsMastered).Select(p => new NamedTensor("master." + p.Name, p.Weight)));

    /// <summary>One update.</summary>
    /// <param name="factor">The schedule's factor on each group's learning rate.</param>
    public void Step(double factor)
    {
        using var none = no_grad();
        Steps++;
        foreach (OptimizerGroup group in Groups)
        {
            if (group.Parameters.Count > 0)
            {
                Update(group, group.LearningRate * factor);
            }
        }

        foreach (TrainedParameter parameter in Gradients.Parameters)
        {
            parameter.Publish();
        }
    }

    /// <summary>Call after the tensors of <see cref="State"/> were given saved values.</summary>
    /// <param name="steps">Updates made by then.</param>
    public void Restored(long steps)
    {
        using var none = no_grad();
        Steps = steps;
        foreach (TrainedParameter parameter in Gradients.Parameters)
        {
            parameter.Publish();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Updates one group.</summary>
    protected abstract void Update(OptimizerGroup group, double learningRate);

    /// <summary>A state tensor of zeros shaped like the parameter's weight, made when first asked for.</summary>
    protected Tensor StateOf(TrainedParameter parameter, string kind)
    {
        ArgumentNullException.ThrowIfNull(parameter);
        string name = $"{kind}.{parameter.Name}";
        if (!_state.TryGetValue(name, out Tensor? tensor))
        {
            using var none = no_grad();
            tensor = zeros_like(parameter.Weight, requires_grad: false).DetachFromDisposeScope();
            _state.Add(name, tensor);
        }

        return tensor;
    }

    /// <summary>A state tensor of a shape and type of its own, made when first asked for; restored like any other.</summary>
    protected Tensor StateOf(TrainedParameter parameter, string kind, Func<Tensor> create)
    {
        ArgumentNullException.ThrowIfNull(parameter);
        ArgumentNullException.ThrowIfNull(create);
        string name = $"{kind}.{parameter.Name}";
        if (!_state.TryGetValue(name, out Tensor? tensor))
        {
            tensor = create().DetachFromDisposeScope();
            _state.Add(name, tensor);
        }

        return tensor;
    }

    /// <summary>Frees the state.</summary>
    protected virtual void Dispose(bool disposing)
    {
        foreach (Tensor tensor in _state.Values)
        {
            tensor.Dispose();
        }

        _state.Clear();
    }
}

/// <summary>Parameters of an optimizer that share a learning rate and a decay.</summary>
/// <param name="Parameters">Each once.</param>
/// <param name="LearningRate">Peak.</param>
/// <param name="WeightDecay">Decoupled.</param>
public sealed record OptimizerGroup(IReadOnlyList<TrainedParameter> Parameters, double LearningRate, double WeightDecay);
