namespace LoraSharp.Training.Data;

/// <summary>One tokenized row.</summary>
public sealed record TrainingExample
{
    /// <summary>Token ids.</summary>
    public required int[] InputIds { get; init; }

    /// <summary>For each token its id when it is to be predicted, else <see cref="Ignored"/>; the model predicts <c>Labels[t + 1]</c> from tokens 0..t.</summary>
    public required int[] Labels { get; init; }

    /// <summary>Where the row came from (file and line), for messages about losses and faults.</summary>
    public required string Origin { get; init; }

    /// <summary>Weight of each label in the loss; null for 1 everywhere.</summary>
    public float[]? Weights { get; init; }

    /// <summary>False for tokens that are padding of a row that came tokenized and padded; null when there is none.</summary>
    public bool[]? Attended { get; init; }

    /// <summary>Tokens that are trained on: labels other than <see cref="Ignored"/>, the first token's aside since nothing predicts it.</summary>
    public int TargetTokens
    {
        get
        {
            int count = 0;
            for (int i = 1; i < Labels.Length; i++)
            {
                count += Labels[i] != Ignored ? 1 : 0;
            }

            return count;
        }
    }

    /// <summary>Label of a token that is not trained on.</summary>
    public const int Ignored = -100;
}

/// <summary>
/// Rows of one forward pass as plain arrays [rows × length], row-major: padded rows, or packed rows in which several
/// sequences follow each other.
/// </summary>
public sealed record MicroBatch
{
    /// <summary>b.</summary>
    public required int Rows { get; init; }

    /// <summary>s.</summary>
    public required int Length { get; init; }

    /// <summary>Token ids [b·s]; padding holds 0 or the pad id.</summary>
    public required long[] InputIds { get; init; }

    /// <summary>Labels [b·s] aligned with the ids (not yet shifted); <see cref="TrainingExample.Ignored"/> where not trained, and at each sequence's first token.</summary>
    public required long[] Labels { get; init; }

    /// <summary>Position of each token in its own sequence [b·s].</summary>
    public required long[] Positions { get; init; }

    /// <summary>Number of the sequence within its row that a token belongs to [b·s], from 1; 0 for padding. Tokens attend only within their sequence.</summary>
    public required int[] Sequences { get; init; }

    /// <summary>Weights of the labels [b·s]; null for 1 everywhere.</summary>
    public float[]? Weights { get; init; }

    /// <summary>Origins of the rows in it, for messages.</summary>
    public required IReadOnlyList<string> Origins { get; init; }

    /// <summary>Of a KTO batch, for each of the rows before the mismatched ones whether its answer is good; else null.</summary>
    public IReadOnlyList<bool>? Desirable { get; init; }

    /// <summary>Labels that are trained on.</summary>
    public int TargetTokens => Labels.Count(l => l != TrainingExample.Ignored);

    /// <summary>Tokens that are not padding.</summary>
    public int Tokens => Sequences.Count(s => s != 0);
}

/// <summary>
/// Gives the trainer its micro-batches in a seeded order that can be saved and restored exactly.
/// </summary>
public interface IBatchSource : IDisposable
{
    /// <summary>Optimizer steps of one epoch; null when it can't be known without reading everything.</summary>
    long? StepsPerEpoch { get; }

    /// <summary>Optimizer steps of the whole run; null when it can't be known beforehand.</summary>
    long? TotalSteps => null;

    /// <summary>Epochs completed so far, with fraction.</summary>
    double Epoch { get; }

    /// <summary>The micro-batches of the next optimizer step (gradient accumulation); empty when the epochs are over.</summary>
    IReadOnlyList<MicroBatch> NextStep();

    /// <summary>Everything needed to go on from here bit by bit (position, random state, packing window).</summary>
    System.Text.Json.Nodes.JsonObject SaveState();

    /// <summary>Goes back to a saved state.</summary>
    void RestoreState(System.Text.Json.Nodes.JsonObject state);
}
