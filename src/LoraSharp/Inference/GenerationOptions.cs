using LoraSharp.Formats;

namespace LoraSharp.Inference;

/// <summary>When a text ends and how its tokens are chosen.</summary>
public sealed record GenerationOptions
{
    /// <summary>Most tokens to generate.</summary>
    public int MaxTokens { get; init; } = 256;

    /// <summary>Ids that end the text; the one that did is the last of the generated ids and no part of the text.</summary>
    public IReadOnlyList<int> EosTokenIds { get; init; } = [];

    /// <summary>Goes on past the end ids, up to <see cref="MaxTokens"/>.</summary>
    public bool IgnoreEos { get; init; }

    /// <summary>The text ends before the first of these; needs a tokenizer.</summary>
    public IReadOnlyList<string> StopStrings { get; init; } = [];

    /// <summary>Whether special tokens are left out of the text; those that end it always are.</summary>
    public bool SkipSpecialTokens { get; init; } = true;

    /// <summary>How tokens are chosen.</summary>
    public SamplingOptions Sampling { get; init; } = new();

    /// <summary>Fails with every value that is out of range.</summary>
    public GenerationOptions Validate()
    {
        Sampling.Validate();
        if (MaxTokens < 1)
        {
            throw new LoraSharpException($"max_tokens {MaxTokens}: expected 1 or more.");
        }

        return StopStrings.Any(string.IsNullOrEmpty) ? throw new LoraSharpException("A stop string is empty.") : this;
    }
}

/// <summary>Why a text ended.</summary>
public enum FinishReason
{
    /// <summary>An end id or a stop string.</summary>
    Stop,

    /// <summary>As many tokens as were asked for, or as the model has positions.</summary>
    Length,
}

/// <summary>A generated text.</summary>
/// <param name="TokenIds">The generated ids, an end id included.</param>
/// <param name="Text">Their text without special tokens; empty without a tokenizer.</param>
/// <param name="FinishReason">Why it ended.</param>
/// <param name="PromptTokens">Tokens of the prompt.</param>
public sealed record GeneratedText(IReadOnlyList<int> TokenIds, string Text, FinishReason FinishReason, int PromptTokens);
