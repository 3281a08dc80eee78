using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>
/// y = x·Wᵀ + b, whatever W is stored as and whatever wraps it: dense, 4-bit, with a low-rank update.
/// Layers own their tensors; <see cref="Dispose()"/> frees them.
/// </summary>
public abstract class LinearLayer : IDisposable
{
    /// <summary>Creates the layer.</summary>
    protected LinearLayer(LinearSpec spec) => Spec = spec;

    /// <summary>Name and sizes.</summary>
    public LinearSpec Spec { get; }

    /// <summary>x [..., k] → y [..., f]. Differentiable in x and in the layer's trainable tensors.</summary>
    public abstract Tensor Forward(Tensor x);

    /// <summary>The effective weight [f, k] (dequantised, without any adapter) as a tensor the caller disposes.</summary>
    public abstract Tensor DenseWeight();

    /// <summary>The bias [f] or null; owned by the layer.</summary>
    public abstract Tensor? Bias { get; }

    /// <summary>
    /// Tensors that a trainer may update or a checkpoint may store, by full name (<c>NAME.weight</c>, <c>NAME.bias</c>,
    /// <c>NAME.lora_A.default.weight</c>); owned by the layer. A frozen one has <c>requires_grad</c> false.
    /// </summary>
    public abstract IEnumerable<NamedTensor> Parameters { get; }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the tensors.</summary>
    protected abstract void Dispose(bool disposing);
}

/// <summary>A tensor and the name it has in the state dict.</summary>
/// <param name="Name">Full name with the layer's path.</param>
/// <param name="Value">Owned by the layer it comes from.</param>
public readonly record struct NamedTensor(string Name, Tensor Value);

/// <summary>What a model asks its factory for.</summary>
/// <param name="Name">Path in the Hugging Face state dict without <c>.weight</c>, e.g. <c>model.layers.0.self_attn.q_proj</c>.</param>
/// <param name="InFeatures">k, the size of the input.</param>
/// <param name="OutFeatures">f, the size of the output.</param>
/// <param name="HasBias">Whether the checkpoint has <c>NAME.bias</c>.</param>
public sealed record LinearSpec(string Name, long InFeatures, long OutFeatures, bool HasBias)
{
    /// <summary>GPT-2's Conv1D: the checkpoint stores the weight as [k, f]; PEFT calls it <c>fan_in_fan_out</c>.</summary>
    public bool IsConv1D { get; init; }

    /// <summary>The output projection of a model (lm_head): not adapted by <c>all-linear</c>, not quantised.</summary>
    public bool IsOutputHead { get; init; }

    /// <summary>When the weight is another layer's (tied to the embedding), that tensor's name, e.g. <c>model.embed_tokens.weight</c>.</summary>
    public string? TiedTo { get; init; }

    /// <summary>A router or other layer that is never quantised.</summary>
    public bool KeepPrecision { get; init; }

    /// <summary>Of a layer of one expert: its place in the stack of all experts; null for any other.</summary>
    public StackSlice? Stack { get; init; }
}

/// <summary>Embedding table by row lookup.</summary>
public abstract class EmbeddingLayer : IDisposable
{
    /// <summary>Creates the layer.</summary>
    protected EmbeddingLayer(EmbeddingSpec spec) => Spec = spec;

    /// <summary>Name and sizes.</summary>
    public EmbeddingSpec Spec { get; }

    /// <summary>ids [b, s] (int64) → [b, s, d].</summary>
    public abstract Tensor Forward(Tensor ids);

    /// <summary>The table [v, d] without any adapter; owned by the layer.</summary>
    public abstract Tensor Weight { get; }

    /// <summary>As <see cref="LinearLayer.Parameters"/>.</summary>
    public abstract IEnumerable<NamedTensor> Parameters { get; }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the tensors.</summary>
    protected abstract void Dispose(bool disposing);
}

/// <summary>What a model asks its factory for.</summary>
/// <param name="Name">Path without <c>.weight</c>, e.g. <c>model.embed_tokens</c>.</param>
/// <param name="Count">v, the rows.</param>
/// <param name="Size">d, the columns.</param>
public sealed record EmbeddingSpec(string Name, long Count, long Size);

/// <summary>
/// The seam: a model asks this for its layers and never knows whether they are dense, 4-bit or adapted.
/// Factories wrap each other: <c>new LoraLinearFactory(options, new Nf4LinearFactory(options, new DenseLinearFactory()))</c>.
/// </summary>
public interface ILinearFactory
{
    /// <summary>A linear layer with weights from <paramref name="weights"/>.</summary>
    LinearLayer CreateLinear(LinearSpec spec, WeightReader weights);

    /// <summary>An embedding with weights from <paramref name="weights"/>.</summary>
    EmbeddingLayer CreateEmbedding(EmbeddingSpec spec, WeightReader weights);

    /// <summary>
    /// A plain parameter (norm weight, router bias, stacked experts) of the given shape, owned by the caller.
    /// Adapters use this to make it trainable (<c>modules_to_save</c>, bias).
    /// </summary>
    Tensor CreateParameter(string name, IReadOnlyList<long> shape, WeightReader weights);

    /// <summary>Experts that the checkpoint stores in one tensor; a factory that has nothing to say of them leaves them dense.</summary>
    ExpertStack CreateExperts(ExpertStackSpec spec, WeightReader weights)
    {
        ArgumentNullException.ThrowIfNull(spec);
        return new DenseExpertStack(spec, CreateParameter(spec.Name, spec.Shape, weights));
    }
}
