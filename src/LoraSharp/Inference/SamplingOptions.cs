using LoraSharp.Formats;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Inference;

/// <summary>How the next token is chosen from the logits. The default is greedy.</summary>
public sealed record SamplingOptions
{
    /// <summary>Logits are divided by this; 0 takes the most likely token.</summary>
    public double Temperature { get; init; }

    /// <summary>Only the k most likely tokens; 0 for all.</summary>
    public int TopK { get; init; }

    /// <summary>Only the most likely tokens that together reach this probability (Holtzman et al. 2020); 1 for all.</summary>
    public double TopP { get; init; } = 1;

    /// <summary>Only tokens at least this fraction as likely as the most likely one; 0 for all.</summary>
    public double MinP { get; init; }

    /// <summary>Logits of tokens seen in prompt and text are divided by this where positive, multiplied where negative (Keskar et al. 2019); 1 for none.</summary>
    public double RepetitionPenalty { get; init; } = 1;

    /// <summary>Taken off a token's logit for each time it was generated; 0 for none.</summary>
    public double FrequencyPenalty { get; init; }

    /// <summary>Taken off a token's logit once it was generated; 0 for none.</summary>
    public double PresencePenalty { get; init; }

    /// <summary>Added to the logits of these token ids, before everything else; null or empty for none. Ids beyond the vocabulary are left alone.</summary>
    public IReadOnlyDictionary<int, double>? LogitBias { get; init; }

    /// <summary>Seed of the random numbers: the same seed, options and logits give the same tokens.</summary>
    public long Seed { get; init; }

    /// <summary>A form that the text must have: tokens that break it are never chosen; null for none.</summary>
    public TokenConstraint? Constraint { get; init; }

    /// <summary>Whether the choice is the largest logit and nothing else.</summary>
    public bool IsGreedy => Temperature == 0 && RepetitionPenalty == 1 && FrequencyPenalty == 0 && PresencePenalty == 0 && Constraint is null && (LogitBias is null or { Count: 0 });

    /// <summary>Fails with every value that is out of range.</summary>
    public SamplingOptions Validate()
    {
        List<string> faults = [];
        Check(Temperature >= 0 && double.IsFinite(Temperature), $"temperature {Temperature}: expected 0 or more");
        Check(TopK >= 0, $"top_k {TopK}: expected 0 (all) or more");
        Check(TopP is > 0 and <= 1, $"top_p {TopP}: expected above 0, at most 1");
        Check(MinP is >= 0 and <= 1, $"min_p {MinP}: expected 0 to 1");
        Check(RepetitionPenalty > 0 && double.IsFinite(RepetitionPenalty), $"repetition_penalty {RepetitionPenalty}: expected above 0");
        Check(double.IsFinite(FrequencyPenalty), $"frequency_penalty {FrequencyPenalty}: expected a number");
        Check(double.IsFinite(PresencePenalty), $"presence_penalty {PresencePenalty}: expected a number");
        Check(LogitBias?.All(b => b.Key >= 0 && double.IsFinite(b.Value)) != false, "logit_bias: expected token ids and numbers");
        return faults.Count == 0 ? this : throw new LoraSharpException($"Sampling options out of range:\n  {string.Join("\n  ", faults)}");

        void Check(bool fine, string fault)
        {
            if (!fine)
            {
                faults.Add(fault);
            }
        }
    }
}
