using LoraSharp.Formats;

namespace LoraSharp.Training;

/// <summary>Which optimizer updates the weights.</summary>
public enum OptimizerKind
{
    /// <summary>AdamW with decoupled weight decay (arXiv 1711.05101).</summary>
    AdamW,

    /// <summary>Stochastic gradient descent, with momentum when <see cref="TrainerOptions.Momentum"/> is set.</summary>
    Sgd,

    /// <summary>Muon for matrices (momentum, orthogonalised by Newton-Schulz), AdamW for everything else; meant for full fine-tuning.</summary>
    Muon,

    /// <summary>AdamW with 8-bit moments, kept in host memory (arXiv 2110.02861).</summary>
    AdamW8bit,
}

/// <summary>Whether activations are kept for the backward pass or computed again.</summary>
public enum GradientCheckpointing
{
    /// <summary>On when the activations of a micro-batch would take more memory than is comfortable.</summary>
    Auto,

    /// <summary>Keep everything: fastest.</summary>
    Off,

    /// <summary>Keep each block's input only and run the block again in the backward pass: gradients are exactly the same.</summary>
    On,
}

/// <summary>Everything about how a run trains; nothing about what it trains on.</summary>
public sealed record TrainerOptions
{
    /// <summary>Passes over the data; read when <see cref="MaxSteps"/> is 0.</summary>
    public double Epochs { get; init; } = 3;

    /// <summary>Optimizer steps; 0 = by <see cref="Epochs"/>.</summary>
    public long MaxSteps { get; init; }

    /// <summary>Which optimizer.</summary>
    public OptimizerKind Optimizer { get; init; } = OptimizerKind.AdamW;

    /// <summary>Peak learning rate.</summary>
    public double LearningRate { get; init; } = 2e-4;

    /// <summary>Shape of the learning rate over the run.</summary>
    public ScheduleKind Schedule { get; init; } = ScheduleKind.Cosine;

    /// <summary>Steps of linear warm-up.</summary>
    public long WarmupSteps { get; init; }

    /// <summary>Warm-up as a share of all steps; read when <see cref="WarmupSteps"/> is 0.</summary>
    public double WarmupRatio { get; init; }

    /// <summary>Lowest learning rate of the schedules that have one, as a share of the peak.</summary>
    public double MinimumLearningRateRatio { get; init; } = 0.1;

    /// <summary>Last phase of warm-up–stable–decay; 0 = by <see cref="DecayRatio"/>.</summary>
    public long DecaySteps { get; init; }

    /// <summary>The same as a share of all steps; read when <see cref="DecaySteps"/> is 0.</summary>
    public double DecayRatio { get; init; } = 0.1;

    /// <summary>Decoupled weight decay.</summary>
    public double WeightDecay { get; init; }

    /// <summary>False: weights with one dimension (norms, biases, magnitudes) are not decayed. True is what torch.optim does.</summary>
    public bool DecayVectors { get; init; } = true;

    /// <summary>Decay of the first moment.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to the root of the second moment.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Momentum of SGD (0 by default there) and of Muon.</summary>
    public double? Momentum { get; init; }

    /// <summary>Gradients are scaled down to this global norm; 0 = never.</summary>
    public double MaxGradNorm { get; init; } = 1;

    /// <summary>Of everything random in the run.</summary>
    public long Seed { get; init; } = 42;

    /// <summary>LoRA+ (arXiv 2402.12354): learning rate of lora_B relative to lora_A; 1 = plain.</summary>
    public double LoraPlusRatio { get; init; } = 1;

    /// <summary>Learning rate of adapted embeddings when LoRA+ is on, PEFT's <c>loraplus_lr_embedding</c>.</summary>
    public double LoraPlusEmbeddingLearningRate { get; init; } = 1e-6;

    /// <summary>Keep or recompute activations.</summary>
    public GradientCheckpointing GradientCheckpointing { get; init; } = GradientCheckpointing.Auto;

    /// <summary>ε of label smoothing in the training loss; evaluation never smooths.</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>λ of λ·log²Z (PaLM, arXiv 2204.02311 section 5) in the training loss.</summary>
    public double ZLoss { get; init; }

    /// <summary>α of NEFTune's noise on embeddings (arXiv 2310.05914); 0 = none.</summary>
    public double NeftuneAlpha { get; init; }

    /// <summary>Evaluate every so many steps; 0 = at the end of every epoch. Read when there is validation data.</summary>
    public long EvalInterval { get; init; }

    /// <summary>Save a checkpoint every so many steps; 0 = only at the end, and when interrupted.</summary>
    public long SaveInterval { get; init; }

    /// <summary>Checkpoints that are kept, the newest; the best one is kept besides.</summary>
    public int KeepLast { get; init; } = 2;

    /// <summary>Stop after so many evaluations without a better loss; 0 = never.</summary>
    public int EarlyStoppingPatience { get; init; }

    /// <summary>How much lower a loss must be to count as better.</summary>
    public double EarlyStoppingMinDelta { get; init; }

    /// <summary>End with the weights of the best evaluation instead of the last ones.</summary>
    public bool LoadBestAtEnd { get; init; }

    /// <summary>Decay of an exponential moving average of the trained weights; 0 = none. Evaluation and the result use the average.</summary>
    public double EmaDecay { get; init; }

    /// <summary>A loss this many times above the recent usual is reported with its rows; 0 = never.</summary>
    public double LossSpikeFactor { get; init; } = 3;

    /// <summary>Elements of the largest piece of logits held at once, [tokens × vocabulary].</summary>
    public long LogitElements { get; init; } = 1 << 22;

    /// <summary>Every fault of the values, each with the recipe's key.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> faults = [];
        void Check(bool good, string key, object found, string expected)
        {
            if (!good)
            {
                faults.Add($"training.{key}: expected {expected}, found {FormattableString.Invariant($"{found}")}");
            }
        }

        Check(MaxSteps >= 0, "max_steps", MaxSteps, "0 (by epochs) or more");
        Check(MaxSteps > 0 || Epochs > 0, "epochs", Epochs, "more than 0 when max_steps is 0");
        Check(LearningRate >= 0 && double.IsFinite(LearningRate), "learning_rate", LearningRate, "0 or more");
        Check(WarmupSteps >= 0, "warmup_steps", WarmupSteps, "0 or more");
        Check(WarmupRatio is >= 0 and < 1, "warmup_ratio", WarmupRatio, "0 to below 1");
        Check(MinimumLearningRateRatio is >= 0 and <= 1, "min_learning_rate_ratio", MinimumLearningRateRatio, "0 to 1");
        Check(DecaySteps >= 0, "decay_steps", DecaySteps, "0 or more");
        Check(DecayRatio is >= 0 and <= 1, "decay_ratio", DecayRatio, "0 to 1");
        Check(WeightDecay >= 0, "weight_decay", WeightDecay, "0 or more");
        Check(Beta1 is >= 0 and < 1, "adam_beta1", Beta1, "0 to below 1");
        Check(Beta2 is >= 0 and < 1, "adam_beta2", Beta2, "0 to below 1");
        Check(Epsilon > 0, "adam_epsilon", Epsilon, "a positive number");
        Check(Momentum is null or (>= 0 and < 1), "momentum", Momentum ?? 0, "0 to below 1");
        Check(MaxGradNorm >= 0, "max_grad_norm", MaxGradNorm, "0 (off) or more");
        Check(LoraPlusRatio > 0, "loraplus_ratio", LoraPlusRatio, "a positive number");
        Check(LoraPlusEmbeddingLearningRate > 0, "loraplus_lr_embedding", LoraPlusEmbeddingLearningRate, "a positive number");
        Check(LabelSmoothing is >= 0 and < 1, "label_smoothing", LabelSmoothing, "0 to below 1");
        Check(ZLoss >= 0, "z_loss", ZLoss, "0 or more");
        Check(NeftuneAlpha >= 0, "neftune_alpha", NeftuneAlpha, "0 (off) or more");
        Check(EvalInterval >= 0, "eval_steps", EvalInterval, "0 (each epoch) or more");
        Check(SaveInterval >= 0, "save_steps", SaveInterval, "0 (at the end) or more");
        Check(KeepLast >= 1, "keep_last", KeepLast, "1 or more");
        Check(EarlyStoppingPatience >= 0, "early_stopping", EarlyStoppingPatience, "0 (off) or more");
        Check(EarlyStoppingMinDelta >= 0, "early_stopping_min_delta", EarlyStoppingMinDelta, "0 or more");
        Check(EmaDecay is >= 0 and < 1, "ema_decay", EmaDecay, "0 (off) to below 1");
        Check(LossSpikeFactor == 0 || LossSpikeFactor > 1, "loss_spike_factor", LossSpikeFactor, "0 (off) or more than 1");
        Check(LogitElements > 0, "logit_elements", LogitElements, "more than 0");
        return faults;
    }

    /// <summary>Fails with every fault at once.</summary>
    public void ThrowIfInvalid()
    {
        IReadOnlyList<string> faults = Validate();
        if (faults.Count > 0)
        {
            throw new LoraSharpException($"The training settings cannot be used:\n  {string.Join("\n  ", faults)}");
        }
    }

    /// <summary>The schedule of a run of so many steps.</summary>
    public LearningRateSchedule CreateSchedule(long totalSteps)
    {
        long warmup = WarmupSteps > 0 ? WarmupSteps : (long)Math.Ceiling(WarmupRatio * totalSteps);
        long decay = DecaySteps > 0 ? DecaySteps : Math.Max(1, (long)(DecayRatio * totalSteps));
        return new LearningRateSchedule(Schedule, totalSteps, warmup, MinimumLearningRateRatio, decay);
    }
}
