using LoraSharp.Models;
using static TorchSharp.torch;

namespace LoraSharp.Serving.Cuda;

/// <summary>
/// A Llama-shaped base as <see cref="FusedDecoder"/> reads it; tensors stay their owner's. Matrices that read the same
/// input lie under each other in one: a layer has four.
/// </summary>
/// <param name="Shape">Sizes.</param>
/// <param name="Embedding">[v, d] bf16.</param>
/// <param name="Norms">The two norms [d] of each layer, bf16.</param>
/// <param name="Matrices">Of each layer q·k·v [(h + 2·kv)·e, d], o [d, h·e], gate·up [2·f, d], down [d, f]; dense or in 4 bits.</param>
/// <param name="FinalNorm">[d] bf16.</param>
/// <param name="Head">[v, d] bf16; may be the embedding.</param>
/// <param name="Cosines">[positions, e/2] float32.</param>
/// <param name="Sines">[positions, e/2] float32.</param>
internal sealed record DecoderWeights(
    LlamaShape Shape,
    Tensor Embedding,
    IReadOnlyList<(Tensor Attention, Tensor Mlp)> Norms,
    IReadOnlyList<IReadOnlyList<DecoderMatrix>> Matrices,
    Tensor FinalNorm,
    Tensor Head,
    Tensor Cosines,
    Tensor Sines)
{
    /// <summary>What is freed with the decoder: tensors made for it alone.</summary>
    public IReadOnlyList<IDisposable> Owned { get; init; } = [];

    /// <summary>Biases of q, k and v of each layer [(h + 2·kv)·e], bf16; empty without.</summary>
    public IReadOnlyList<Tensor> Biases { get; init; } = [];

    /// <summary>Norms of each head of q and of k [e] of each layer, bf16; empty without.</summary>
    public IReadOnlyList<(Tensor Query, Tensor Key)> HeadNorms { get; init; } = [];

    /// <summary>Layers.</summary>
    public int LayerCount => Matrices.Count;

    /// <summary>Rows of the parts of each matrix, in the order of <see cref="LlamaTensors.LinearGroups"/>.</summary>
    public IReadOnlyList<IReadOnlyList<long>> PartRows =>
    [
        [Shape.Heads * Shape.HeadSize, Shape.KeyHeads * Shape.HeadSize, Shape.KeyHeads * Shape.HeadSize],
        [Shape.Size],
        [Shape.Inner, Shape.Inner],
        [Shape.Size],
    ];

    /// <summary>Inputs of each matrix.</summary>
    public IReadOnlyList<long> Inputs => [Shape.Size, Shape.Heads * Shape.HeadSize, Shape.Size, Shape.Inner];
}
