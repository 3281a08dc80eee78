using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>How it is learned.</summary>
public sealed record TrainingRecipe
{
    /// <summary>Epochs.</summary>
    [Description("Passes over the training rows.")]
    [Range(1e-6, 1e6)]
    public double Epochs { get; init; } = 3;

    /// <summary>Steps.</summary>
    [Description("Optimizer steps; 0 to go by epochs.")]
    [Range(0, int.MaxValue)]
    public int MaxSteps { get; init; }

    /// <summary>Batch.</summary>
    [Description("Rows of one forward pass.")]
    [Range(1, 65536)]
    public int BatchSize { get; init; } = 4;

    /// <summary>Accumulation.</summary>
    [Description("Forward passes of one optimizer step; their losses are weighted by tokens.")]
    [Range(1, 65536)]
    public int GradientAccumulation { get; init; } = 4;

    /// <summary>Learning rate.</summary>
    [Description("Peak learning rate.")]
    [Range(0.0, 1e3)]
    public double LearningRate { get; init; } = 2e-4;

    /// <summary>Schedule.</summary>
    [Description("constant, linear, cosine, cosine_with_min, wsd (warm-up, stable, decay), inverse_sqrt.")]
    [AllowedValues("constant", "linear", "cosine", "cosine_with_min", "wsd", "inverse_sqrt")]
    public string Schedule { get; init; } = "cosine";

    /// <summary>Warm-up.</summary>
    [Description("Steps of linear warm-up.")]
    [Range(0, int.MaxValue)]
    public int WarmupSteps { get; init; } = 10;

    /// <summary>Floor.</summary>
    [Description("Lowest learning rate as a share of the peak (cosine_with_min, wsd).")]
    [Range(0.0, 1.0)]
    public double MinLearningRateRatio { get; init; } = 0.1;

    /// <summary>Decay.</summary>
    [Description("Share of the steps that wsd decays in.")]
    [Range(0.0, 1.0)]
    public double DecayRatio { get; init; } = 0.2;

    /// <summary>Optimizer.</summary>
    [Description("adamw, adamw8bit, sgd, muon (full fine-tuning).")]
    [AllowedValues("adamw", "adamw8bit", "sgd", "muon")]
    public string Optimizer { get; init; } = "adamw";

    /// <summary>Weight decay.</summary>
    [Description("Decoupled weight decay (Loshchilov and Hutter 2019).")]
    [Range(0.0, 1e3)]
    public double WeightDecay { get; init; }

    /// <summary>β₁.</summary>
    [Description("Decay of AdamW's first moment.")]
    [Range(0.0, 0.99999999)]
    public double AdamBeta1 { get; init; } = 0.9;

    /// <summary>β₂.</summary>
    [Description("Decay of AdamW's second moment.")]
    [Range(0.0, 0.99999999)]
    public double AdamBeta2 { get; init; } = 0.999;

    /// <summary>ε.</summary>
    [Description("AdamW's epsilon.")]
    [Range(0.0, 1.0)]
    public double AdamEpsilon { get; init; } = 1e-8;

    /// <summary>Clipping.</summary>
    [Description("Gradients are scaled down to this norm; 0 for no clipping.")]
    [Range(0.0, 1e9)]
    public double MaxGradNorm { get; init; } = 1.0;

    /// <summary>Seed.</summary>
    [Description("Seed of initialisation, order and dropout.")]
    public int Seed { get; init; } = 42;

    /// <summary>Checkpointing.</summary>
    [Description("Keep only each block's input and compute it again for the backward pass: on, off, auto.")]
    [AllowedValues("auto", "on", "off")]
    public string GradientCheckpointing { get; init; } = "auto";

    /// <summary>Fused step.</summary>
    [Description("Use the step written by hand where it fits (GPU, bfloat16, packing, Llama-shaped, plain LoRA): auto, off.")]
    [AllowedValues("auto", "off")]
    public string FusedStep { get; init; } = "auto";

    /// <summary>Reuse of memory.</summary>
    [Description("On a CPU, keep freed memory for the next activations instead of giving it back: steps a fifth to a quarter shorter, peak memory up to half larger.")]
    public bool ReuseMemory { get; init; }

    /// <summary>LoRA+.</summary>
    [Description("Learning rate of B over that of A (Hayou et al. 2024); 1 for plain LoRA.")]
    [Range(1e-6, 1e6)]
    public double LoraplusRatio { get; init; } = 1;

    /// <summary>Smoothing.</summary>
    [Description("Label smoothing.")]
    [Range(0.0, 0.999)]
    public double LabelSmoothing { get; init; }

    /// <summary>z-loss.</summary>
    [Description("Factor on the squared log of the softmax's sum.")]
    [Range(0.0, 1e3)]
    public double ZLoss { get; init; }

    /// <summary>NEFTune.</summary>
    [Description("Noise on the embeddings (Jain et al. 2023): alpha/√(tokens·size); 0 for none.")]
    [Range(0.0, 1e3)]
    public double NeftuneAlpha { get; init; }

    /// <summary>EMA.</summary>
    [Description("Decay of an exponential moving average of the trained weights; 0 for none.")]
    [Range(0.0, 0.99999999)]
    public double EmaDecay { get; init; }

    /// <summary>Evaluation interval.</summary>
    [Description("Evaluate every this many steps; 0: once an epoch.")]
    [Range(0, int.MaxValue)]
    public int EvalSteps { get; init; }

    /// <summary>Checkpoint interval.</summary>
    [Description("Write a checkpoint every this many steps; 0: about ten in a run.")]
    [Range(0, int.MaxValue)]
    public int SaveSteps { get; init; }

    /// <summary>Checkpoints kept.</summary>
    [Description("How many checkpoints are kept.")]
    [Range(1, 1000)]
    public int KeepLast { get; init; } = 2;

    /// <summary>Early stop.</summary>
    [Description("Stop after this many evaluations without a lower loss; 0 never.")]
    [Range(0, int.MaxValue)]
    public int EarlyStopping { get; init; }

    /// <summary>Best weights.</summary>
    [Description("End with the weights of the lowest validation loss instead of the last ones; early_stopping does so anyway.")]
    public bool LoadBest { get; init; }
}
