namespace LoraSharp.Quantization;

/// <summary>Sizes of a dense decoder from which its memory follows.</summary>
/// <param name="Layers">Decoder layers.</param>
/// <param name="Hidden">d.</param>
/// <param name="Intermediate">Inner size of the feed-forward part.</param>
/// <param name="Heads">Query heads.</param>
/// <param name="KeyValueHeads">Key and value heads.</param>
/// <param name="HeadSize">e.</param>
/// <param name="Vocabulary">v.</param>
/// <param name="TiedHead">Whether the output head is the embedding.</param>
public sealed record ModelShape(int Layers, long Hidden, long Intermediate, long Heads, long KeyValueHeads, long HeadSize, long Vocabulary, bool TiedHead)
{
    /// <summary>Llama 3.2 1B.</summary>
    public static ModelShape Llama1B { get; } = new(16, 2048, 8192, 32, 8, 64, 128256, true);

    /// <summary>Llama 3.1 8B.</summary>
    public static ModelShape Llama8B { get; } = new(32, 4096, 14336, 32, 8, 128, 128256, false);

    /// <summary>Llama 65B, the largest of the QLoRA paper.</summary>
    public static ModelShape Llama65B { get; } = new(80, 8192, 22016, 64, 64, 128, 32000, false);

    /// <summary>[f, k] of the seven linear layers of one decoder layer: q, k, v, o, gate, up, down.</summary>
    public IReadOnlyList<(long Out, long In)> LayerMatrices =>
    [
        (Heads * HeadSize, Hidden), (KeyValueHeads * HeadSize, Hidden), (KeyValueHeads * HeadSize, Hidden), (Hidden, Heads * HeadSize),
        (Intermediate, Hidden), (Intermediate, Hidden), (Hidden, Intermediate),
    ];

    /// <summary>Weights of all decoder layers' linear layers: what is quantised.</summary>
    public long LinearWeights => Layers * LayerMatrices.Sum(m => m.Out * m.In);

    /// <summary>Embedding, output head and norms: what is not.</summary>
    public long OtherWeights => (Vocabulary * Hidden * (TiedHead ? 1 : 2)) + (((2L * Layers) + 1) * Hidden);
}

/// <summary>
/// Bytes that a model takes, part by part, from its shape alone: what is known before anything is loaded. Activations
/// are an upper estimate for gradient checkpointing, the rest is exact.
/// </summary>
/// <param name="QuantizedBase">Codes and scales of the 4-bit matrices, or 0.</param>
/// <param name="DenseBase">Everything of the base in the compute type.</param>
/// <param name="DequantizationBuffer">The one dequantised matrix.</param>
/// <param name="Adapter">A and B in float32.</param>
/// <param name="Gradients">Of A and B in float32.</param>
/// <param name="OptimizerState">Two moments: float32, or 8 bits.</param>
/// <param name="Activations">Inputs of all layers and the inside of one, for the tokens of a micro-batch.</param>
public sealed record MemoryEstimate(long QuantizedBase, long DenseBase, long DequantizationBuffer, long Adapter, long Gradients, long OptimizerState, long Activations)
{
    /// <summary>All parts.</summary>
    public long Total => QuantizedBase + DenseBase + DequantizationBuffer + Adapter + Gradients + OptimizerState + Activations;

    /// <summary>
    /// Bytes of n weights in 4 bits: half a byte each, and a scale a block, float32 or 8 bits and a float32 a 256. With
    /// blocks of 64, 0.5 + 1/64 + 1/4096 = 0.51587 bytes a weight doubly quantised and 0.5625 otherwise.
    /// </summary>
    public static long FourBitBytes(long count, QuantizationOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        long blocks = FourBitReference.Blocks(count, options.BlockSize);
        return FourBitReference.PackedBytes(count) + (options.DoubleQuantization ? blocks + (sizeof(float) * Quantization.DoubleQuantization.Blocks(blocks)) : sizeof(float) * blocks);
    }

    /// <summary>Estimates fine-tuning with an adapter on every linear layer (<paramref name="rank"/> 0: inference).</summary>
    /// <param name="shape">The model.</param>
    /// <param name="options">How it is quantised; null: not.</param>
    /// <param name="computeBytes">Bytes of the compute type: 2 for bfloat16, 4 for float32.</param>
    /// <param name="rank">r of the adapter.</param>
    /// <param name="tokens">Tokens of a micro-batch, padding included.</param>
    /// <param name="eightBitOptimizer">Whether the optimizer's moments take 8 bits.</param>
    public static MemoryEstimate Of(ModelShape shape, QuantizationOptions? options, int computeBytes, int rank, long tokens, bool eightBitOptimizer = false)
    {
        ArgumentNullException.ThrowIfNull(shape);
        long quantized = options is null ? 0 : shape.Layers * shape.LayerMatrices.Sum(m => FourBitBytes(m.Out * m.In, options));
        long dense = computeBytes * (shape.OtherWeights + (options is null ? shape.LinearWeights : 0));
        long buffer = options is null ? 0 : computeBytes * shape.LayerMatrices.Max(m => m.Out * m.In);
        long trained = (long)shape.Layers * rank * shape.LayerMatrices.Sum(m => m.Out + m.In);
        long state = eightBitOptimizer ? (2 * trained) + (2 * sizeof(float) * ((trained + 255) / 256)) : 2 * sizeof(float) * trained;

        // With checkpointing: x of every layer, and of the one in hand its seven inputs and outputs.
        long inside = shape.LayerMatrices.Sum(m => m.Out + m.In) + (4 * shape.Hidden);
        long activations = computeBytes * tokens * ((rank > 0 ? shape.Layers * shape.Hidden : 0) + inside);
        return new MemoryEstimate(quantized, dense, buffer, sizeof(float) * trained, rank > 0 ? sizeof(float) * trained : 0, rank > 0 ? state : 0, activations);
    }
}
