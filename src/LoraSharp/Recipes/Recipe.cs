using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>
/// Everything a fine-tune is told, from one YAML file: each setting has one name, one default and one description,
/// used by the file, by the flags of <c>lora train</c> and by the documentation. Keys are the property names in
/// snake_case. Immutable; made by <see cref="RecipeReader"/>.
/// </summary>
public sealed record Recipe
{
    /// <summary>Model.</summary>
    [Description("The base model: a Hugging Face folder, a .gguf file or a hub name (org/name[@revision]).")]
    [Required]
    public string Model { get; init; } = "";

    /// <summary>Method.</summary>
    [Description("lora (frozen base as stored), qlora (frozen base in 4 bits), full (every weight trains).")]
    [AllowedValues("lora", "qlora", "full")]
    public string Method { get; init; } = "lora";

    /// <summary>Compute type.</summary>
    [Description("Type the base computes in: float32, bfloat16, or auto (float32 on a CPU, bfloat16 on a GPU). Adapters always train in float32.")]
    [AllowedValues("auto", "float32", "bfloat16")]
    public string Dtype { get; init; } = "auto";

    /// <summary>Device.</summary>
    [Description("cpu, cuda[:n] or auto (the first GPU there is).")]
    public string Device { get; init; } = "auto";

    /// <summary>Family override.</summary>
    [Description("Treat the model as this family, whatever config.json calls it.")]
    public string? ModelType { get; init; }

    /// <summary>The low-rank update.</summary>
    public AdapterRecipe Adapter { get; init; } = new();

    /// <summary>What is learned from.</summary>
    public DataRecipe Data { get; init; } = new();

    /// <summary>How it is learned.</summary>
    public TrainingRecipe Training { get; init; } = new();

    /// <summary>Learning from preferences instead of texts.</summary>
    public PreferenceRecipe Preference { get; init; } = new();

    /// <summary>Learning from rewards instead of texts.</summary>
    public GrpoRecipe Grpo { get; init; } = new();

    /// <summary>What is written besides the usual.</summary>
    public ReportRecipe Report { get; init; } = new();

    /// <summary>How the base is quantised.</summary>
    public QuantizationRecipe Quantization { get; init; } = new();

    /// <summary>What a sweep varies.</summary>
    public SweepRecipe Sweep { get; init; } = new();

    /// <summary>Output.</summary>
    [Description("The run folder: adapter, model card, metrics, plot, checkpoints.")]
    [Required]
    public string Output { get; init; } = "";

    /// <summary>Overwrite.</summary>
    [Description("Start over in an output folder that already holds a finished run. Without it, a run that was cut off is resumed and a finished one is an error.")]
    public bool Overwrite { get; init; }
}

/// <summary>The low-rank update (Hu et al. 2021, section 4): W' = W + (alpha/r)·B·A.</summary>
public sealed record AdapterRecipe
{
    /// <summary>r.</summary>
    [Description("Rank r of the update.")]
    [Range(1, 65536)]
    public int Rank { get; init; } = 16;

    /// <summary>alpha.</summary>
    [Description("Numerator of the scaling alpha/r (alpha/√r with rslora).")]
    [Range(1e-9, 1e9)]
    public double Alpha { get; init; } = 32;

    /// <summary>Dropout.</summary>
    [Description("Probability of dropping an input of A while training.")]
    [Range(0.0, 0.999)]
    public double Dropout { get; init; }

    /// <summary>Rank dropout.</summary>
    [Description("Probability of dropping a whole rank while training (LyCORIS, Yeh et al. 2024).")]
    [Range(0.0, 0.999)]
    public double RankDropout { get; init; }

    /// <summary>Targets.</summary>
    [Description("all-linear, a list of name suffixes, or a regular expression that matches whole module names.")]
    public NameSet Targets { get; init; } = new("all-linear");

    /// <summary>Stacked experts.</summary>
    [Description("Tensors that get factors of their own, by name or its ending: stacked experts, e.g. [experts.gate_up_proj, experts.down_proj] (PEFT's target_parameters).")]
    public IReadOnlyList<string> TargetParameters { get; init; } = [];

    /// <summary>Exclusions.</summary>
    [Description("Modules that are left out of the targets: names or a regular expression.")]
    public NameSet? Exclude { get; init; }

    /// <summary>rsLoRA.</summary>
    [Description("Scale by alpha/√r (Kalajdzievski 2023).")]
    public bool Rslora { get; init; }

    /// <summary>DoRA.</summary>
    [Description("Train magnitude and direction apart (Liu et al. 2024).")]
    public bool Dora { get; init; }

    /// <summary>Initialisation.</summary>
    [Description("How A and B start: default, gaussian, pissa, pissa_niter_N, olora, orthogonal, eva (directions of what the layers see of the training data, Paischer et al. 2024). For LoftQ and QPiSSA see lora quantize --init.")]
    public string Init { get; init; } = "default";

    /// <summary>EVA's redistribution.</summary>
    [Description("With init eva: a layer may get up to rank · eva_rho, taken from layers that need fewer directions; 1 keeps every rank.")]
    [Range(1.0, 1000.0)]
    public double EvaRho { get; init; } = 2;

    /// <summary>EVA's end.</summary>
    [Description("With init eva: cosine with the batch before from which on a direction counts as found.")]
    [Range(0.0, 1.0)]
    public double EvaTau { get; init; } = 0.99;

    /// <summary>Start from an adapter.</summary>
    [Description("Go on from this adapter folder: its configuration replaces the other keys of this section.")]
    public string? InitFrom { get; init; }

    /// <summary>Another base.</summary>
    [Description("Go on from init_from although it was made on another base.")]
    public bool AnyBase { get; init; }

    /// <summary>Warnings as errors.</summary>
    [Description("Treat warnings about the adapter as errors: targets without a match, factors that are zero, tied weights, another base.")]
    public bool Strict { get; init; }

    /// <summary>Ranks by module.</summary>
    [Description("Rank for modules whose name matches a pattern, e.g. { down_proj: 4 }.")]
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Alphas by module.</summary>
    [Description("Alpha for modules whose name matches a pattern.")]
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Layers.</summary>
    [Description("Only these decoder layers, by index.")]
    public IReadOnlyList<int>? LayersToTransform { get; init; }

    /// <summary>Layers' name.</summary>
    [Description("Name of the list that layers_to_transform counts in, e.g. layers.")]
    public string? LayersPattern { get; init; }

    /// <summary>Biases.</summary>
    [Description("Which biases train: none, all, lora_only.")]
    [AllowedValues("none", "all", "lora_only")]
    public string Bias { get; init; } = "none";

    /// <summary>B's bias.</summary>
    [Description("Give B a bias of its own.")]
    public bool LoraBias { get; init; }

    /// <summary>Whole modules.</summary>
    [Description("Modules that train and are saved whole, e.g. [lm_head, embed_tokens].")]
    public IReadOnlyList<string> ModulesToSave { get; init; } = [];

    /// <summary>Tokens.</summary>
    [Description("Token ids whose embedding rows train.")]
    public IReadOnlyList<int> TrainableTokens { get; init; } = [];
}

/// <summary>What is learned from.</summary>
public sealed record DataRecipe
{
    /// <summary>Training rows.</summary>
    [Description("Training data: a file, a folder, or a list of them, each also as { path, weight, format, columns, max_samples }.")]
    public IReadOnlyList<DataSourceRecipe> Train { get; init; } = [];

    /// <summary>Validation rows.</summary>
    [Description("A share of the training rows (0 < share < 1), a number of them, or a file of its own; 0 for none.")]
    public string Validation { get; init; } = "0";

    /// <summary>Format.</summary>
    [Description("auto, chat, alpaca, prompt_completion, text, preference, kto, tokenized.")]
    [AllowedValues("auto", "chat", "alpaca", "prompt_completion", "text", "preference", "kto", "tokenized")]
    public string Format { get; init; } = "auto";

    /// <summary>Window.</summary>
    [Description("Longest row in tokens; longer ones are cut (see long_rows), counted and reported.")]
    [Range(2, 1 << 24)]
    public int MaxLength { get; init; } = 1024;

    /// <summary>Packing.</summary>
    [Description("Put several rows into one window, each attending to itself only.")]
    public bool Packing { get; init; }

    /// <summary>Shuffle.</summary>
    [Description("Shuffle each epoch by the seed.")]
    public bool Shuffle { get; init; } = true;

    /// <summary>Length groups.</summary>
    [Description("Put rows of similar length into one batch where packing is off.")]
    public bool GroupByLength { get; init; }

    /// <summary>Loss mask.</summary>
    [Description("What the loss is taken on: completions (the last answer), assistant (every answer of a chat), all.")]
    [AllowedValues("completions", "assistant", "all")]
    public string TrainOn { get; init; } = "assistant";

    /// <summary>Columns.</summary>
    [Description("Renames columns: { prompt: question, completion: answer }.")]
    public IReadOnlyDictionary<string, string> Columns { get; init; } = new Dictionary<string, string>();

    /// <summary>Template.</summary>
    [Description("Prompt made of the row's fields in braces, e.g. \"Q: {question}\\nA:\".")]
    public string? PromptTemplate { get; init; }

    /// <summary>Completion template.</summary>
    [Description("Completion made of the row's fields in braces, e.g. \" {answer}\".")]
    public string? CompletionTemplate { get; init; }

    /// <summary>Prompt style.</summary>
    [Description("How prompts and instructions become text: plain (instructions in the words of Stanford Alpaca) or chat (the model's chat template).")]
    [AllowedValues("plain", "chat")]
    public string PromptStyle { get; init; } = "plain";

    /// <summary>Long rows.</summary>
    [Description("What happens to rows longer than max_length: cut (at the end), drop, split (into further rows, for running text).")]
    [AllowedValues("cut", "drop", "split")]
    public string LongRows { get; init; } = "cut";

    /// <summary>Threads.</summary>
    [Description("Threads that tokenize; the result does not depend on it.")]
    [Range(1, 1024)]
    public int Workers { get; init; } = 1;

    /// <summary>Overlap.</summary>
    [Description("Accept a validation set whose rows are all in the training set.")]
    public bool AllowOverlap { get; init; }

    /// <summary>Limit.</summary>
    [Description("Use at most this many training rows; 0 for all.")]
    [Range(0, int.MaxValue)]
    public int MaxSamples { get; init; }
}

/// <summary>One source of training rows.</summary>
public sealed record DataSourceRecipe
{
    /// <summary>Path.</summary>
    [Description("File or folder.")]
    [Required]
    public string Path { get; init; } = "";

    /// <summary>Weight.</summary>
    [Description("How often its rows are drawn beside the other sources'.")]
    [Range(1e-6, 1e6)]
    public double Weight { get; init; } = 1;

    /// <summary>Format.</summary>
    [Description("As data.format, for this source.")]
    public string? Format { get; init; }

    /// <summary>Columns.</summary>
    [Description("As data.columns, for this source.")]
    public IReadOnlyDictionary<string, string>? Columns { get; init; }

    /// <summary>Limit.</summary>
    [Description("At most this many rows; 0 for all.")]
    [Range(0, int.MaxValue)]
    public int MaxSamples { get; init; }
}

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

/// <summary>Learning from preferences.</summary>
public sealed record PreferenceRecipe
{
    /// <summary>Loss.</summary>
    [Description("none, or dpo, ipo, hinge, orpo, simpo, kto for preference rows.")]
    [AllowedValues("none", "dpo", "ipo", "hinge", "orpo", "simpo", "kto")]
    public string Loss { get; init; } = "none";

    /// <summary>β.</summary>
    [Description("Strength of the pull to the reference (lambda of ORPO).")]
    [Range(1e-6, 1e3)]
    public double Beta { get; init; } = 0.1;

    /// <summary>Smoothing.</summary>
    [Description("Share of labels taken to be wrong (conservative DPO).")]
    [Range(0.0, 0.5)]
    public double LabelSmoothing { get; init; }

    /// <summary>Margin.</summary>
    [Description("SimPO's target margin over beta (gamma/beta).")]
    [Range(0.0, 1e3)]
    public double Gamma { get; init; } = 0.5;
}

/// <summary>How the base is quantised; read when the method is qlora.</summary>
public sealed record QuantizationRecipe
{
    /// <summary>Type.</summary>
    [Description("nf4 or fp4.")]
    [AllowedValues("nf4", "fp4")]
    public string Type { get; init; } = "nf4";

    /// <summary>Double quantisation.</summary>
    [Description("Quantise the scales too (Dettmers et al. 2023, section 3).")]
    public bool Double { get; init; } = true;

    /// <summary>Block.</summary>
    [Description("Weights that share a scale.")]
    [AllowedValues(32, 64, 128, 256, 512, 1024, 2048, 4096)]
    public int BlockSize { get; init; } = 64;

    /// <summary>Exceptions.</summary>
    [Description("Modules that keep their type, besides the output head.")]
    public IReadOnlyList<string> SkipModules { get; init; } = [];
}

/// <summary>Either one word or expression, or a list of names.</summary>
/// <param name="Single">A word such as <c>all-linear</c> or a regular expression; null when it is a list.</param>
public sealed record NameSet(string? Single)
{
    /// <summary>The names; empty when it is a single expression.</summary>
    public IReadOnlyList<string> Names { get; init; } = [];

    /// <inheritdoc/>
    public override string ToString() => Single ?? string.Join(", ", Names);
}
