using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>
/// Where a linear layer of one expert lies in the stack of all experts that transformers 5 holds in memory, whatever
/// the checkpoint does: <c>gate_up_proj</c> [E, 2f, d] with rows [gate | up], <c>down_proj</c> [E, d, f].
/// </summary>
/// <param name="Parameter">Path of the stack, e.g. <c>model.layers.0.mlp.experts.gate_up_proj</c>.</param>
/// <param name="Expert">Index of the expert.</param>
/// <param name="Count">E, the number of experts.</param>
/// <param name="FirstRow">Where the layer's output rows begin in the expert's matrix.</param>
/// <param name="Rows">Output rows of the expert's whole matrix.</param>
public sealed record StackSlice(string Parameter, int Expert, int Count, long FirstRow, long Rows);

/// <summary>What a model asks its factory for where the checkpoint stores experts in one tensor.</summary>
/// <param name="Name">Full name of the tensor.</param>
/// <param name="Count">E, the number of experts.</param>
/// <param name="InFeatures">k, the size of an expert's input.</param>
/// <param name="OutFeatures">f, the size of its output.</param>
public sealed record ExpertStackSpec(string Name, int Count, long InFeatures, long OutFeatures)
{
    /// <summary>Stored as [E, k, f] (gpt-oss) instead of [E, f, k].</summary>
    public bool IsTransposed { get; init; }

    /// <summary>Shape in the checkpoint.</summary>
    public IReadOnlyList<long> Shape => IsTransposed ? [Count, InFeatures, OutFeatures] : [Count, OutFeatures, InFeatures];
}

/// <summary>The same linear map of every expert, stacked: y = x·W[e]ᵀ.</summary>
public abstract class ExpertStack : IDisposable
{
    /// <summary>Creates the stack.</summary>
    protected ExpertStack(ExpertStackSpec spec) => Spec = spec;

    /// <summary>Name and sizes.</summary>
    public ExpertStackSpec Spec { get; }

    /// <summary>The stacked tensor as the checkpoint holds it; owned by the stack.</summary>
    public abstract Tensor Weight { get; }

    /// <summary>x [n, k] → [n, f] by one expert, for the caller to dispose.</summary>
    public abstract Tensor Forward(int expert, Tensor x);

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the tensors.</summary>
    protected abstract void Dispose(bool disposing);
}

/// <summary>A stack with a dense tensor.</summary>
/// <param name="spec">Name and sizes.</param>
/// <param name="weight">Of the spec's shape; owned by the stack from now on.</param>
public sealed class DenseExpertStack(ExpertStackSpec spec, Tensor weight) : ExpertStack(spec)
{
    /// <inheritdoc/>
    public override Tensor Weight => weight;

    /// <inheritdoc/>
    public override Tensor Forward(int expert, Tensor x)
    {
        ArgumentNullException.ThrowIfNull(x);
        using Tensor matrix = weight.select(0, expert);
        return Spec.IsTransposed ? x.matmul(matrix) : nn.functional.linear(x, matrix);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing) => weight.Dispose();
}
