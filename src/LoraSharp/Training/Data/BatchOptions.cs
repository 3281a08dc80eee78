namespace LoraSharp.Training.Data;

/// <summary>How examples become the micro-batches of optimizer steps.</summary>
public sealed record BatchOptions
{
    /// <summary>Rows of a micro-batch (with packing: windows).</summary>
    public int BatchSize { get; init; } = 4;

    /// <summary>Micro-batches of an optimizer step.</summary>
    public int GradientAccumulation { get; init; } = 1;

    /// <summary>Passes over the rows, a fraction allowed; ignored when <see cref="MaxSteps"/> is given.</summary>
    public double Epochs { get; init; } = 1;

    /// <summary>Optimizer steps, over as many epochs as it takes; 0 to go by epochs.</summary>
    public long MaxSteps { get; init; }

    /// <summary>Whether each epoch has an order of its own, a function of seed and epoch alone.</summary>
    public bool Shuffle { get; init; } = true;

    /// <summary>Seed of the order.</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Put several rows into one window.</summary>
    public bool Packing { get; init; }

    /// <summary>Window of packing in tokens.</summary>
    public int MaxLength { get; init; } = 1024;

    /// <summary>Rows of the shuffled order that packing looks at at once; packs never mix rows of two such stretches.</summary>
    public int PackingWindow { get; init; } = 16384;

    /// <summary>Put rows of similar length into one micro-batch.</summary>
    public bool GroupByLength { get; init; }

    /// <summary>Rows are padded to a multiple of this.</summary>
    public int PadToMultipleOf { get; init; } = 1;

    /// <summary>Pad every micro-batch to <see cref="MaxLength"/>, so that all have one shape.</summary>
    public bool PadToMaxLength { get; init; }

    /// <summary>Id that padding holds.</summary>
    public int PadTokenId { get; init; }

    /// <summary>Every fault of the options; empty when there is none.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> faults = [];
        void Check(bool good, string fault)
        {
            if (!good)
            {
                faults.Add(fault);
            }
        }

        Check(BatchSize >= 1, $"training.batch_size is {BatchSize}. Expected at least 1.");
        Check(GradientAccumulation >= 1, $"training.gradient_accumulation is {GradientAccumulation}. Expected at least 1.");
        Check(MaxSteps >= 0, $"training.max_steps is {MaxSteps}. Expected 0 (by epochs) or more.");
        Check(MaxSteps > 0 || (Epochs > 0 && double.IsFinite(Epochs)), $"training.epochs is {Epochs}. Expected more than 0.");
        Check(MaxLength >= 2, $"data.max_length is {MaxLength}. Expected at least 2.");
        Check(PackingWindow >= 1, $"the packing window is {PackingWindow} rows. Expected at least 1.");
        Check(PadToMultipleOf >= 1, $"pad_to_multiple_of is {PadToMultipleOf}. Expected at least 1.");
        Check(!(Packing && GroupByLength), "data.packing and data.group_by_length are both on. Expected one of them: packing leaves nothing to group.");
        return faults;
    }
}
