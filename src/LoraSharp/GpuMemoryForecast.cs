using LoraSharp.Formats;
using LoraSharp.Quantization;
using LoraSharp.Training.Fused;
using LoraSharp.Training.Loss;

namespace LoraSharp;

/// <summary>
/// What a recipe would take of a GPU, tensor by tensor, by each of the two ways of training there. Of Llama-shaped blocks
/// (q, k, v, o, gate, up, down) in bfloat16. Compared with measured steps of the fused one (docs/benchmarks/memory.md); the plain one
/// is counted and not yet compared.
/// </summary>
public sealed record GpuMemoryForecast
{
    // What the driver, libraries and their workspaces take before a tensor is there.
    private const long Context = 1_000_000_000;
    private const int Bf16 = 2, Fp32 = 4;

    /// <summary>Bytes with the fused step (training.fused_step: auto); null where it does not fit the recipe.</summary>
    public long? Fused { get; init; }

    /// <summary>Bytes with libtorch's operators (training.fused_step: off).</summary>
    public required long Plain { get; init; }

    /// <summary>One decoder's sizes, as both ways need them.</summary>
    /// <param name="Layers">Blocks.</param>
    /// <param name="Size">d.</param>
    /// <param name="Heads">Values of a token's queries, h·e.</param>
    /// <param name="KeyValues">Values of a token's keys, hk·e.</param>
    /// <param name="QueryHeads">h.</param>
    /// <param name="Inner">f.</param>
    /// <param name="Vocabulary">v.</param>
    /// <param name="OtherWeights">Weights outside of the blocks' matrices: embedding, head, norms.</param>
    public sealed record Shape(int Layers, long Size, long Heads, long KeyValues, long QueryHeads, long Inner, long Vocabulary, long OtherWeights)
    {
        /// <summary>Whether the heads of q and k have norms (Qwen3): the fused step then keeps them turned in a buffer of all layers.</summary>
        public bool HeadNorms { get; init; }

        /// <summary>Weights of a block's seven matrices.</summary>
        public long BlockWeights => (Size * ((2 * Heads) + (2 * KeyValues))) + (3 * Size * Inner);
    }

    /// <summary>Bytes of the fused step.</summary>
    /// <param name="shape">The decoder.</param>
    /// <param name="rank">r, on all seven matrices.</param>
    /// <param name="quantization">Of a 4-bit base; null for a dense one.</param>
    /// <param name="tokens">Of a micro-batch.</param>
    /// <param name="checkpointing">Keep the blocks' inputs only, in host memory, and there too the embedding where the head has a matrix of its own.</param>
    public static long FusedBytes(Shape shape, int rank, QuantizationOptions? quantization, long tokens, bool checkpointing)
    {
        ArgumentNullException.ThrowIfNull(shape);
        (long d, long f, long h, long kv) = (shape.Size, shape.Inner, shape.Heads, shape.KeyValues);

        // Residual after attention, q·k·v, attention's output, gate and up, x·Aᵀ of the output projection; two norms' scales and attention's.
        long block = (Bf16 * (d + (h + (2 * kv) + (3 * rank)) + h + ((2 * f) + (2 * rank)) + rank)) + (Fp32 * (2 + shape.QueryHeads));
        long states = tokens * ((Bf16 * d * (checkpointing ? 2 : shape.Layers)) + ((checkpointing ? 1 : shape.Layers) * block));

        // Normed input, activation, output, residual's gradient, attention's output again; attention's gradients, of q in float32 too.
        long buffers = Bf16 * tokens * ((d + (3 * rank)) + (Math.Max(f, d) + rank) + Math.Max(d, h) + (d + rank) + (h + rank) + (h + (2 * kv)) + (2 * h) + (shape.HeadNorms ? h + kv : 0));
        long logits = Bf16 * Math.Min(FusedOptions.DefaultLossChunk(checkpointing), tokens) * shape.Vocabulary;
        long factors = shape.Layers * rank * ((d + h) + (2 * (d + kv)) + (h + d) + (3 * (d + f)));
        long weights = quantization is null
            ? Bf16 * shape.Layers * shape.BlockWeights
            : (shape.Layers * MemoryEstimate.FourBitBytes(shape.BlockWeights, quantization)) + (Bf16 * d * 2 * f);

        // Of a factor: float32 value, gradient in the step and in the trainer, two moments, its place in the base's matrix; of a block its gradient in bfloat16.
        long trained = factors * ((5 * Fp32) + (quantization is null ? Bf16 : 0));
        long table = shape.Vocabulary * d;
        long others = shape.OtherWeights - (checkpointing && shape.OtherWeights >= 2 * table ? table : 0);
        return Context + weights + (Bf16 * others) + states + buffers + logits + trained + (Bf16 * factors / shape.Layers);
    }

    /// <summary>Bytes of a step by libtorch's operators.</summary>
    /// <param name="weights">Of the base as it is held.</param>
    /// <param name="trained">Trained numbers, gradients, optimizer state.</param>
    /// <param name="activationsOfToken">Of <see cref="ActivationMemory"/>.</param>
    /// <param name="shape">The decoder.</param>
    /// <param name="rows">Of a micro-batch.</param>
    /// <param name="length">Tokens of a row.</param>
    /// <param name="recomputes">Keep the blocks' inputs only.</param>
    /// <param name="packed">Attention under a mask, which is there once as truth values and once as numbers.</param>
    /// <param name="logits">The pieces of logits.</param>
    public static long PlainBytes(long weights, long trained, double activationsOfToken, Shape shape, int rows, int length, bool recomputes, bool packed, long logits)
    {
        ArgumentNullException.ThrowIfNull(shape);
        long tokens = (long)rows * length;
        double activations = recomputes ? ActivationMemory.Recomputed(activationsOfToken, shape.Layers, shape.Size, Bf16, tokens) : activationsOfToken * tokens;
        long mask = packed ? (long)rows * length * length * (1 + Fp32) : 0;
        return Context + weights + trained + (long)activations + mask + logits;
    }

    internal static Shape? ShapeOf(TensorInfo[] all, TensorInfo[] matrices, Models.DecoderConfig config)
    {
        long Rows(string name) => matrices.FirstOrDefault(m => m.Name.EndsWith(name + ".weight", StringComparison.Ordinal))?.Shape[0] ?? 0;
        var shape = new Shape(config.Layers.Count, config.HiddenSize, Rows("q_proj"), Rows("k_proj"), config.Attention.Heads, Rows("gate_proj"), config.VocabularySize, all.Sum(t => t.Count) - matrices.Sum(m => m.Count)) { HeadNorms = config.Attention.QueryKeyNorm != Models.QueryKeyNorm.None };
        return shape is { Heads: > 0, KeyValues: > 0, Inner: > 0 } && matrices.Length == 7 * shape.Layers && shape.BlockWeights * shape.Layers == matrices.Sum(m => m.Count) ? shape : null;
    }
}
