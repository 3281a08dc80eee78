using LoraSharp.Formats.Peft;
using LoraSharp.Kernels.Cpu;
using LoraSharp.Layers;
using LoraSharp.Tensors.Interop;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// What one adapter has for one linear layer or embedding. With k inputs, f outputs, rank r (of an embedding: k = v
/// tokens, f = d): ΔW = scaling · B·A, and whatever else the variant brings. Owns its tensors.
/// </summary>
public sealed class AdapterModule : IDisposable
{
    private LowRankKernel.Factors? _kernelFactors;
    private bool _kernelFactorsKnown;
    private Tensor? _bfloat16A;
    private Tensor? _bfloat16B;

    /// <summary>Creates an empty module.</summary>
    internal AdapterModule(string name, bool isEmbedding)
    {
        Name = name;
        IsEmbedding = isEmbedding;
    }

    /// <summary>Path of the layer.</summary>
    public string Name { get; }

    /// <summary>Whether the layer is an embedding: A is [r, v], B is [d, r].</summary>
    public bool IsEmbedding { get; }

    /// <summary>r; 0 without factors.</summary>
    public int Rank => A is null ? 0 : (int)A.shape[0] / Math.Max(1, Experts);

    /// <summary>Factor on B·A.</summary>
    public double Scaling { get; internal set; } = 1;

    /// <summary>E of a stack of experts, whose A is [E·r, k] and B [f, r·E]; 0 for a layer.</summary>
    public int Experts { get; internal init; }

    /// <summary>A [r, k], float32; null without factors.</summary>
    public Tensor? A { get; internal set; }

    /// <summary>B [f, r], float32; null without factors.</summary>
    public Tensor? B { get; internal set; }

    /// <summary>Bias of B [f], scaled like B; null for none.</summary>
    public Tensor? BBias { get; internal set; }

    /// <summary>DoRA's magnitudes [f]; null for none.</summary>
    public Tensor? Magnitude { get; internal set; }

    /// <summary>What takes the place of the layer's bias [f]; null for the base's.</summary>
    public Tensor? Bias { get; internal set; }

    /// <summary>What takes the place of the layer's weight [f, k] (an embedding's [v, d]); null for the base's.</summary>
    public Tensor? Weight { get; internal set; }

    /// <summary>
    /// Whether <see cref="Weight"/> is the base's own, saved along with the factors as PEFT does for embeddings: kept to be
    /// written back, not computed with.
    /// </summary>
    internal bool WeightIsBase { get; set; }

    /// <summary>A weight that really takes the place of the layer's.</summary>
    internal Tensor? OtherWeight => WeightIsBase ? null : Weight;

    /// <summary>What takes the place of some rows of the weight [m, d]; null for none.</summary>
    public Tensor? TokenRows { get; internal set; }

    /// <summary>Which rows [m], int64.</summary>
    public Tensor? TokenIds { get; internal set; }

    /// <summary>For each token its place in <see cref="TokenIds"/>, -1 for none [v], int64.</summary>
    public Tensor? TokenPlaces { get; internal set; }

    /// <summary>
    /// A0 [r, k] that the initialisation took out of the base weight (PiSSA, OLoRA): ΔW = scaling · (B·A − B0·A0). The
    /// base itself stays whole, so that it can be shared and the adapter switched off. Frozen; null for none.
    /// </summary>
    public Tensor? AnchorA { get; internal set; }

    /// <summary>B0 [f, r], with <see cref="AnchorA"/>.</summary>
    public Tensor? AnchorB { get; internal set; }

    /// <summary>The base stores the weight as [k, f] (Conv1D), and so do files; in memory it is [f, k].</summary>
    internal bool IsConv1D { get; set; }

    /// <summary>Tokens are another module's (the head tied to an embedding): used here, owned and saved there.</summary>
    internal bool BorrowsTokens { get; init; }

    /// <summary>Factors are views of a stack's: used here, owned, trained and saved there.</summary>
    internal bool IsSlice { get; init; }

    /// <summary>The key's part before the factors' names, where nested wrappers make it another than the path; null where they don't.</summary>
    internal Func<AdapterPart, string>? KeyOfPart { get; init; }

    /// <summary>magnitude / ‖W + ΔW‖ [f] of a frozen DoRA module, computed once.</summary>
    internal Tensor? FrozenDoraScale { get; set; }

    /// <summary>
    /// Where frozen factors lie, for the kernel that adds them to rows of a batch; null where there is more to a module
    /// than A and B, or they are laid out otherwise than <see cref="AdapterLoader"/> does.
    /// </summary>
    internal LowRankKernel.Factors? KernelFactors
    {
        get
        {
            if (!_kernelFactorsKnown)
            {
                _kernelFactorsKnown = true;
                bool fits = this is { IsEmbedding: false, A: { requires_grad: false, dtype: ScalarType.Float32, device_type: DeviceType.CPU }, B.dtype: ScalarType.Float32, Magnitude: null, Weight: null, Bias: null, BBias: null, TokenRows: null, AnchorA: null }
                    && A.is_contiguous() && B.stride(0) == 1 && B.stride(1) == B.shape[0];
                _kernelFactors = !fits ? null
                    : _bfloat16A is not null && _bfloat16B is not null ? new(AtenTensor.DataPointer(_bfloat16A), AtenTensor.DataPointer(_bfloat16B), Rank, (float)Scaling, IsBfloat16: true)
                    : new(AtenTensor.DataPointer(A!), AtenTensor.DataPointer(B!), Rank, (float)Scaling);
            }

            return _kernelFactors;
        }
    }

    /// <summary>
    /// Keeps a second copy of frozen factors in bfloat16 where that loses nothing, as of an adapter that was saved so: rows of
    /// other adapters wait for the factors' bytes more than for anything else, and these are half as many.
    /// </summary>
    internal void KeepBfloat16()
    {
        if (!IsEmbedding && Experts == 0 && A is { device_type: DeviceType.CPU } a && B is { } b && Exact(a) is { } bfloat16A)
        {
            // As B lies: its transpose, contiguous.
            if (Exact(b.t()) is { } bfloat16B)
            {
                (_bfloat16A, _bfloat16B) = (bfloat16A, bfloat16B);
            }
            else
            {
                bfloat16A.Dispose();
            }
        }
    }

    /// <summary>Bytes of that copy.</summary>
    internal long Bfloat16Bytes => 2 * ((_bfloat16A?.NumberOfElements ?? 0) + (_bfloat16B?.NumberOfElements ?? 0));

    private static Tensor? Exact(Tensor factor)
    {
        using var scope = NewDisposeScope();
        Tensor rounded = factor.to(ScalarType.BFloat16).contiguous();
        return rounded.to(ScalarType.Float32).equal(factor).all().item<bool>() ? rounded.DetachFromDisposeScope() : null;
    }

    /// <summary>The trained tensors with PEFT's keys, in the order of the keys.</summary>
    public IEnumerable<(string Key, AdapterPart Part, Tensor Value)> Parts
    {
        get
        {
            (AdapterPart Part, Tensor? Value)[] parts =
            [
                (IsEmbedding ? AdapterPart.EmbeddingA : Experts > 0 ? AdapterPart.StackA : AdapterPart.LoraA, IsSlice ? null : A),
                (IsEmbedding ? AdapterPart.EmbeddingB : Experts > 0 ? AdapterPart.StackB : AdapterPart.LoraB, IsSlice ? null : B),
                (AdapterPart.LoraBBias, BBias),
                (AdapterPart.Magnitude, Magnitude),
                (AdapterPart.TokenRows, BorrowsTokens ? null : TokenRows),
                (A is null ? AdapterPart.Saved : AdapterPart.BaseBias, Bias),
                (A is null ? AdapterPart.Saved : AdapterPart.BaseWeight, Weight),
            ];
            foreach ((AdapterPart part, Tensor? value) in parts)
            {
                if (value is not null)
                {
                    string key = part == AdapterPart.Saved
                        ? AdapterTensor.Prefix + Name + (ReferenceEquals(value, Bias) ? ".bias" : ".weight")
                        : KeyOfPart?.Invoke(part) ?? AdapterTensor.KeyOf(Name, part);
                    yield return (key, part, value);
                }
            }
        }
    }

    /// <summary>The same under the names a state dict in memory has: <c>NAME.lora_A.ADAPTER.weight</c>.</summary>
    internal IEnumerable<NamedTensor> Named(string adapter) => Parts.Select(p => new NamedTensor(
        p.Part switch
        {
            AdapterPart.LoraA or AdapterPart.StackA => $"{Name}.lora_A.{adapter}.weight",
            AdapterPart.LoraB or AdapterPart.StackB => $"{Name}.lora_B.{adapter}.weight",
            AdapterPart.LoraBBias => $"{Name}.lora_B.{adapter}.bias",
            AdapterPart.EmbeddingA => $"{Name}.lora_embedding_A.{adapter}",
            AdapterPart.EmbeddingB => $"{Name}.lora_embedding_B.{adapter}",
            AdapterPart.Magnitude => $"{Name}.lora_magnitude_vector.{adapter}.weight",
            AdapterPart.TokenRows => $"{Name}.token_adapter.trainable_tokens_delta.{adapter}",
            AdapterPart.BaseWeight => $"{Name}.base_layer.weight",
            AdapterPart.BaseBias => $"{Name}.base_layer.bias",
            _ => $"{Name}.modules_to_save.{adapter}.{(ReferenceEquals(p.Value, Bias) ? "bias" : "weight")}",
        },
        p.Value));

    /// <summary>A [r, k] and B [f, r] of one expert of a stack: views, for the caller to dispose.</summary>
    internal (Tensor A, Tensor B) OfExpert(int expert)
    {
        using var scope = NewDisposeScope();
        Tensor a = A!.narrow(0, (long)expert * Rank, Rank);
        Tensor b = B!.view(B.shape[0], Rank, Experts).select(2, expert);
        return (a.MoveToOuterDisposeScope(), b.MoveToOuterDisposeScope());
    }

    /// <summary>
    /// ΔW = scaling · (B·A − B0·A0) [f, k] in float32, without DoRA, for the caller to dispose; of a stack [E, f, k]; null without factors.
    /// </summary>
    public Tensor? Delta()
    {
        if (A is null || B is null)
        {
            return null;
        }

        using var scope = NewDisposeScope();
        using var _ = no_grad();
        if (Experts > 0)
        {
            Tensor b = B.to(ScalarType.Float32).view(B.shape[0], Rank, Experts).permute(2, 0, 1);
            return b.bmm(A.to(ScalarType.Float32).view(Experts, Rank, A.shape[1])).mul_(Scaling).MoveToOuterDisposeScope();
        }

        Tensor delta = B.to(ScalarType.Float32).mm(A.to(ScalarType.Float32));
        if (AnchorA is not null)
        {
            delta.addmm_(AnchorB!, AnchorA, 1, -1);
        }

        return delta.mul_(Scaling).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor? tensor in (Tensor?[])[A, B, BBias, Magnitude, Bias, Weight, AnchorA, AnchorB, FrozenDoraScale, _bfloat16A, _bfloat16B])
        {
            tensor?.Dispose();
        }

        if (!BorrowsTokens)
        {
            TokenRows?.Dispose();
            TokenIds?.Dispose();
            TokenPlaces?.Dispose();
        }
    }
}
