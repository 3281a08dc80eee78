using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>Sizes of a Llama-shaped decoder: pre-norm RMSNorm, grouped-query attention with RoPE over whole heads and maybe biases on q, k and v and norms of their heads, SwiGLU.</summary>
internal sealed record LlamaShape
{
    /// <summary>Hidden size d.</summary>
    public required long Size { get; init; }

    /// <summary>Query heads h.</summary>
    public required long Heads { get; init; }

    /// <summary>Key and value heads.</summary>
    public required long KeyHeads { get; init; }

    /// <summary>Size of a head e.</summary>
    public required long HeadSize { get; init; }

    /// <summary>Inner size of the MLP f.</summary>
    public required long Inner { get; init; }

    /// <summary>Vocabulary v.</summary>
    public required long Vocabulary { get; init; }

    /// <summary>RMSNorm's epsilon.</summary>
    public required double Epsilon { get; init; }

    /// <summary>Factor on q·kᵀ.</summary>
    public required double AttentionScale { get; init; }

    /// <summary>The sizes of a model.</summary>
    public static LlamaShape Of(DecoderConfig config) => new()
    {
        Size = config.HiddenSize,
        Heads = config.Attention.Heads,
        KeyHeads = config.Attention.KeyValueHeads,
        HeadSize = config.Attention.HeadSize,
        Inner = config.FeedForward.Size,
        Vocabulary = config.VocabularySize,
        Epsilon = config.Norm.Epsilon,
        AttentionScale = config.Attention.Scale,
    };
}

/// <summary>
/// A Llama-shaped model's tensors besides its linear layers, for code that runs the model by kernels of its own on a GPU.
/// The tensors stay the model's, but for the tables of angles and the biases.
/// </summary>
internal sealed class LlamaTensors : IDisposable
{
    /// <summary>Names of a layer's linears below the layer's own name: those that read the same input stand together.</summary>
    public static readonly IReadOnlyList<IReadOnlyList<string>> LinearGroups =
    [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ];

    private LlamaTensors(LlamaShape shape, Tensor embedding, IReadOnlyList<(Tensor Attention, Tensor Mlp)> norms, IReadOnlyList<(Tensor Query, Tensor Key)> headNorms, IReadOnlyList<Tensor> biases, Tensor finalNorm, Tensor head, Tensor cosines, Tensor sines)
    {
        Shape = shape;
        Embedding = embedding;
        Norms = norms;
        HeadNorms = headNorms;
        Biases = biases;
        FinalNorm = finalNorm;
        Head = head;
        Cosines = cosines;
        Sines = sines;
    }

    /// <summary>Sizes.</summary>
    public LlamaShape Shape { get; }

    /// <summary>[v, d].</summary>
    public Tensor Embedding { get; }

    /// <summary>The two norms [d] of each layer.</summary>
    public IReadOnlyList<(Tensor Attention, Tensor Mlp)> Norms { get; }

    /// <summary>Norms of each head of q and of k [e] before RoPE, of each layer; none where the model has none.</summary>
    public IReadOnlyList<(Tensor Query, Tensor Key)> HeadNorms { get; }

    /// <summary>Of q, k and v [(h + 2·kv)·e] of each layer, none where the model has none; owned by this.</summary>
    public IReadOnlyList<Tensor> Biases { get; }

    /// <summary>[d].</summary>
    public Tensor FinalNorm { get; }

    /// <summary>[v, d]; may be the embedding.</summary>
    public Tensor Head { get; }

    /// <summary>[positions, e/2] float32; owned by this.</summary>
    public Tensor Cosines { get; }

    /// <summary>[positions, e/2] float32; owned by this.</summary>
    public Tensor Sines { get; }

    /// <summary>Why a model cannot be run this way; null when it can.</summary>
    /// <param name="model">The model.</param>
    /// <param name="longest">Longest sequence that it will be given: a window that it fits into is none.</param>
    public static string? Obstacle(CausalLanguageModel model, int longest) =>
        model.Device.type != TorchSharp.DeviceType.CUDA ? "it runs on a GPU"
        : model.DType != ScalarType.BFloat16 ? "it computes in bfloat16"
        : ShapeObstacle(model.Config, longest);

    /// <summary>Why a configuration is not of this shape; null when it is. It is the arithmetic that counts, not the family's name.</summary>
    /// <param name="c">The configuration.</param>
    /// <param name="longest">Longest sequence.</param>
    public static string? ShapeObstacle(DecoderConfig c, int longest)
    {
        AttentionConfig a = c.Attention;
        RopeSpec? rope = c.Layers[0].Rope;
        // Everything else as Llama has it.
        var names = new DecoderNames { Prefix = c.Names.Prefix, Embedding = c.Names.Embedding, Layers = c.Names.Layers, FinalNorm = c.Names.FinalNorm, Head = c.Names.Head };
        var attention = new AttentionConfig { Heads = a.Heads, KeyValueHeads = a.KeyValueHeads, HeadSize = a.HeadSize, Scale = a.Scale, QkvBias = a.QkvBias, OutputBias = a.OutputBias, QueryKeyNorm = a.QueryKeyNorm };
        return c.Names != names || c.Parallel || c.NormsAfterResidual || c.EmbeddingSize is not null || c.FeedForward.Activation != Activation.Silu || c.Norm.Kind is not (NormKind.Rms or NormKind.RmsFloat32)
                || !c.Names.Embedding.EndsWith(".embed_tokens", StringComparison.Ordinal) || c.Names.FinalNorm?.EndsWith(".norm", StringComparison.Ordinal) != true ? $"it knows blocks of Llama's shape, not those of {c.ModelType}"
            : a != attention || a.QueryKeyNorm is not (QueryKeyNorm.None or QueryKeyNorm.PerHead) || c.EmbeddingScale != 1 || c.ResidualScale != 1 || c.LogitScale != 1 || c.LogitSoftCap is not null || c.Positions is not null ? $"it knows attention and scales as Llama has them, not as {c.ModelType}"
            : c.Layers.Any(l => l.Window < longest) ? $"its window of {c.Layers.Min(l => l.Window)} tokens is shorter than the longest sequence, {longest}"
            : c.Layers.Any(l => l.Sparse || l.Rope != rope) || rope is null || rope.DependsOnLength || rope.Interleaved || rope.Rotated != a.HeadSize ? "experts and other rotary embeddings are not in it"
            : a.OutputBias || c.FeedForward.Bias || c.HeadBias ? "biases besides those of q, k and v are not in it"
            : c.VocabularySize % 8 != 0 || c.HiddenSize % 8 != 0 || a.HeadSize % 8 != 0 || c.FeedForward.Size % 8 != 0 ? "sizes must be multiples of 8"
            : null;
    }

    /// <summary>Takes a model apart; <see cref="Obstacle"/> must be null.</summary>
    /// <param name="model">The model.</param>
    /// <param name="positions">How many positions the tables of angles have.</param>
    public static LlamaTensors Of(CausalLanguageModel model, int positions)
    {
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        DecoderConfig c = model.Config;
        AttentionConfig a = c.Attention;
        Dictionary<string, Tensor> parameters = model.Parameters.DistinctBy(p => p.Name).ToDictionary(p => p.Name, p => p.Value);
        Tensor places = arange(positions, ScalarType.Int64, model.Device).unsqueeze(0);
        RotaryAngles angles = RotaryEmbedding.Angles(c.Layers[0].Rope!, places, positions, ScalarType.Float32);
        Tensor Table(Tensor t) => t.contiguous().view(positions, a.HeadSize / 2).clone().DetachFromDisposeScope();
        IReadOnlyList<Tensor> biases = !a.QkvBias ? [] : [.. Enumerable.Range(0, c.Layers.Count).Select(l =>
            cat([.. LinearGroups[0].Select(n => parameters[$"{c.Names.Layers}.{l}.{n}.bias"])], 0).to(ScalarType.BFloat16).DetachFromDisposeScope())];
        string prefix = c.Names.Layers[..c.Names.Layers.LastIndexOf('.')];
        Tensor embedding = parameters[$"{prefix}.embed_tokens.weight"];
        return new LlamaTensors(
            LlamaShape.Of(c),
            embedding,
            [.. Enumerable.Range(0, c.Layers.Count).Select(l => (parameters[$"{c.Names.Layers}.{l}.input_layernorm.weight"], parameters[$"{c.Names.Layers}.{l}.post_attention_layernorm.weight"]))],
            a.QueryKeyNorm != QueryKeyNorm.PerHead ? [] : [.. Enumerable.Range(0, c.Layers.Count).Select(l => (parameters[$"{c.Names.Layers}.{l}.self_attn.q_norm.weight"], parameters[$"{c.Names.Layers}.{l}.self_attn.k_norm.weight"]))],
            biases,
            parameters[$"{prefix}.norm.weight"],
            parameters.GetValueOrDefault(c.Names.Head + ".weight", embedding),
            Table(angles.Cos),
            Table(angles.Sin));
    }

    /// <summary>Frees the tables of angles and the biases.</summary>
    public void Dispose()
    {
        foreach (Tensor bias in Biases)
        {
            bias.Dispose();
        }

        Cosines.Dispose();
        Sines.Dispose();
    }
}
