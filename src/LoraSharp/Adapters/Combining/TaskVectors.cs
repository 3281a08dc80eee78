using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Combining;

/// <summary>How several updates of one tensor become one.</summary>
public enum TaskMethod
{
    /// <summary>Σ wᵢ·tᵢ (task arithmetic, Ilharco et al. 2023).</summary>
    Linear,

    /// <summary>The largest entries of each kept, then the weighted sum.</summary>
    MagnitudePrune,

    /// <summary>The largest entries kept, a sign elected for each place, the mean of those that agree (Yadav et al. 2023).</summary>
    Ties,

    /// <summary>Random entries dropped and the rest scaled up (DARE, Yu et al. 2024), then the weighted sum.</summary>
    DareLinear,

    /// <summary>DARE, then the election of signs.</summary>
    DareTies,
}

/// <summary>Combines tensors of one shape as PEFT's <c>merge_utils</c> does.</summary>
/// <param name="method">How.</param>
/// <param name="density">Share of the entries that is kept, 0 to 1; 1 prunes nothing.</param>
/// <param name="byFrequency">Whether signs are elected by number instead of by sum.</param>
/// <param name="generator">For DARE, on the CPU.</param>
public sealed class TaskVectors(TaskMethod method, double density, bool byFrequency, Generator generator)
{
    static TaskVectors() => NativeRuntime.EnsureLoaded();

    /// <summary>The combination, for the caller to dispose.</summary>
    /// <param name="tensors">float32, all of one shape.</param>
    /// <param name="weights">One each, any sign.</param>
    public Tensor Combine(IReadOnlyList<Tensor> tensors, IReadOnlyList<double> weights)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        ArgumentNullException.ThrowIfNull(weights);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        Tensor[] pruned = [.. tensors.Select(Prune)];
        Tensor[] weighted = [.. pruned.Select((t, i) => t * (float)weights[i])];
        if (method is not (TaskMethod.Ties or TaskMethod.DareTies))
        {
            return weighted.Aggregate((sum, t) => sum + t).MoveToOuterDisposeScope();
        }

        // The election is held among the pruned updates, before their weights.
        Tensor votes = (byFrequency ? pruned.Select(t => t.sign()) : pruned).Aggregate((sum, t) => sum + t);
        Tensor elected = where(votes >= 0, tensor(1f), tensor(-1f));
        Tensor total = zeros_like(votes);
        Tensor voters = zeros_like(votes);
        for (int i = 0; i < pruned.Length; i++)
        {
            Tensor agrees = pruned[i].sign().eq(elected).to(ScalarType.Float32);
            total.add_(weighted[i] * agrees);
            voters.add_(agrees);
        }

        return (total / voters.clamp_min(1)).MoveToOuterDisposeScope();
    }

    private Tensor Prune(Tensor value)
    {
        if (density >= 1 || method == TaskMethod.Linear)
        {
            return value;
        }

        if (method is TaskMethod.DareLinear or TaskMethod.DareTies)
        {
            Tensor mask = empty(value.shape).bernoulli_(density, generator);
            return value * mask / density;
        }

        int kept = checked((int)(density * value.NumberOfElements));
        Tensor flat = value.reshape(-1);
        (_, Tensor largest) = flat.abs().topk(kept);
        return zeros_like(flat).index_copy_(0, largest, flat.index_select(0, largest)).view(value.shape);
    }
}
