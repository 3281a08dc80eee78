using LoraSharp.Models;
using static TorchSharp.torch;

namespace LoraSharp.Training.Fused;

/// <summary>A frozen linear layer and its adapter, as the fused step takes it over.</summary>
internal sealed record FusedLinear
{
    /// <summary>Name in the state dict.</summary>
    public required string Name { get; init; }

    /// <summary>f.</summary>
    public required long Rows { get; init; }

    /// <summary>Writes the base weight as bf16 into a view [f, k] with a row stride of its own.</summary>
    public required Action<Tensor> WriteBase { get; init; }

    /// <summary>Told where the base lies [f, k] once it is written, so that its owner can read it there; not for bases that take turns in one buffer.</summary>
    public Action<Tensor>? Placed { get; init; }

    /// <summary>A [r, k] float32, or null without an adapter; becomes a view of the step's flat parameters.</summary>
    public Tensor? A { get; init; }

    /// <summary>B [f, r] float32; likewise.</summary>
    public Tensor? B { get; init; }

    /// <summary>alpha/r.</summary>
    public double Scaling { get; init; }
}

/// <summary>One decoder layer.</summary>
internal sealed record FusedLayer(Tensor AttentionNorm, Tensor MlpNorm, FusedLinear Query, FusedLinear Key, FusedLinear Value, FusedLinear Output, FusedLinear Gate, FusedLinear Up, FusedLinear Down)
{
    /// <summary>Biases of q, k and v [(h + 2·hk)·e] bf16, frozen; null without.</summary>
    public Tensor? QkvBias { get; init; }

    /// <summary>Norm of each head of q [e] bf16 before RoPE, frozen; null without. In all layers or in none.</summary>
    public Tensor? QueryNorm { get; init; }

    /// <summary>Norm of each head of k, likewise.</summary>
    public Tensor? KeyNorm { get; init; }
}

/// <summary>Everything the fused step reads of a model; tensors stay their owner's.</summary>
/// <param name="Shape">Sizes.</param>
/// <param name="Embedding">[v, d] bf16.</param>
/// <param name="Layers">In order.</param>
/// <param name="FinalNorm">[d] bf16.</param>
/// <param name="Head">[v, d] bf16; may be the embedding.</param>
/// <param name="Cosines">[positions, e/2] float32.</param>
/// <param name="Sines">[positions, e/2] float32.</param>
internal sealed record FusedModel(LlamaShape Shape, Tensor Embedding, IReadOnlyList<FusedLayer> Layers, Tensor FinalNorm, Tensor Head, Tensor Cosines, Tensor Sines);

/// <summary>How the fused step runs.</summary>
internal sealed record FusedOptions
{
    /// <summary>b: rows of a micro-batch.</summary>
    public required int Rows { get; init; }

    /// <summary>s: tokens of a row; fixed.</summary>
    public required int Length { get; init; }

    /// <summary>Most sequences in a micro-batch; at least <see cref="Rows"/>.</summary>
    public required int MostSequences { get; init; }

    /// <summary>Keep only each layer's input; compute the layer again for the backward pass.</summary>
    public bool Checkpointing { get; init; }

    /// <summary>With checkpointing: the layers' inputs wait in page-locked host memory.</summary>
    public bool InputsInHostMemory { get; init; }

    /// <summary>Base matrices take turns in one buffer, written before each use (4-bit bases).</summary>
    public bool SharedWeights { get; init; }

    /// <summary>Capture each half of a step in a CUDA graph.</summary>
    public bool Graphs { get; init; } = true;

    /// <summary>Rows of logits that exist at a time; by default 1024, with checkpointing 512.</summary>
    public int LossChunk { get => field > 0 ? field : DefaultLossChunk(Checkpointing); init; }

    /// <summary>What <see cref="LossChunk"/> is where nothing is said.</summary>
    public static int DefaultLossChunk(bool checkpointing) => checkpointing ? 512 : 1024;

    /// <summary>AdamW's β₁.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>AdamW's β₂.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>AdamW's ε.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Decoupled weight decay.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Largest gradient norm; 0 for no clipping.</summary>
    public double MaxGradNorm { get; init; } = 1;

    /// <summary>LoRA+.</summary>
    public double LoraplusRatio { get; init; } = 1;
}
