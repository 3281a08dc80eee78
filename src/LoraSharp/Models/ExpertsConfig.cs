using LoraSharp.Layers;

namespace LoraSharp.Models;

/// <summary>How a router turns its scores into the weights of a token's experts.</summary>
public enum Routing
{
    /// <summary>Softmax over all experts, then the k largest (Mixtral, Qwen3-MoE, OLMoE).</summary>
    SoftmaxThenTopK,

    /// <summary>The k largest scores, then softmax over those (Granite-MoE, gpt-oss).</summary>
    TopKThenSoftmax,

    /// <summary>Sigmoid, a bias that only chooses, groups of experts (DeepSeek-V3, section 2.1.2).</summary>
    GroupedSigmoid,
}

/// <summary>How the checkpoint stores its experts.</summary>
public enum ExpertStorage
{
    /// <summary>Each a gated feed-forward of three linear layers.</summary>
    Separate,

    /// <summary>Two tensors [experts, 2f, d] with rows [gate | up], and [experts, d, f] (Granite-MoE).</summary>
    Stacked,

    /// <summary>Two tensors [experts, d, 2f] with columns alternating gate and up, and [experts, f, d], with biases and a clamped gate (gpt-oss).</summary>
    StackedInterleaved,
}

/// <summary>A mixture of experts.</summary>
public sealed record ExpertsConfig
{
    /// <summary>Where transformers 5 holds the stacks of experts below a layer that checkpoints store one by one, whatever the checkpoint calls the block.</summary>
    public const string StacksPath = "mlp.experts";

    /// <summary>Experts a layer.</summary>
    public required int Count { get; init; }

    /// <summary>Experts a token.</summary>
    public required int PerToken { get; init; }

    /// <summary>f, inner width of one expert.</summary>
    public required int Size { get; init; }

    /// <summary>Of the experts' gates.</summary>
    public required Activation Activation { get; init; }

    /// <summary>How scores become weights.</summary>
    public required Routing Routing { get; init; }

    /// <summary>Whether the chosen weights are divided by their sum.</summary>
    public bool Normalize { get; init; }

    /// <summary>Factor on the weights (DeepSeek-V3).</summary>
    public double WeightScale { get; init; } = 1;

    /// <summary>Groups of experts, of which <see cref="TopGroups"/> may be chosen from.</summary>
    public int Groups { get; init; } = 1;

    /// <summary>See <see cref="Groups"/>.</summary>
    public int TopGroups { get; init; } = 1;

    /// <summary>Inner width of the experts every token takes; 0 for none.</summary>
    public int SharedSize { get; init; }

    /// <summary>How they are stored.</summary>
    public ExpertStorage Storage { get; init; }

    /// <summary>Limit of the clamped gate of gpt-oss.</summary>
    public double ClampLimit { get; init; } = 7;

    /// <summary>Path of the block below the layer: <c>mlp</c> or <c>block_sparse_moe</c>.</summary>
    public string Block { get; init; } = "mlp";

    /// <summary>Name of the router below the block.</summary>
    public string Router { get; init; } = "gate";

    /// <summary>Names of an expert's gate, up and down.</summary>
    public (string Gate, string Up, string Down) Names { get; init; } = ("gate_proj", "up_proj", "down_proj");
}
