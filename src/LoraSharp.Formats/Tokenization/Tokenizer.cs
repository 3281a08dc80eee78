namespace LoraSharp.Formats.Tokenization;

/// <summary>Text to token ids and back, as the model's own tokenizer does it. Immutable and safe for concurrent use.</summary>
public abstract class Tokenizer
{
    /// <summary>One more than the largest id there is, added tokens included.</summary>
    public abstract int VocabularySize { get; }

    /// <summary>Beginning of a sequence; null when the model has none.</summary>
    public abstract int? BosTokenId { get; }

    /// <summary>End of a sequence; null when the model has none.</summary>
    public abstract int? EosTokenId { get; }

    /// <summary>Padding; null when the model has none.</summary>
    public abstract int? PadTokenId { get; }

    /// <summary>Token ids of a text.</summary>
    /// <param name="text">Any text; lone surrogates are replaced by U+FFFD.</param>
    /// <param name="addSpecialTokens">Whether the post-processor adds what a model expects around a text (BOS, CLS, ...).</param>
    public virtual int[] Encode(string text, bool addSpecialTokens = true) => EncodeWithOffsets(text, addSpecialTokens).Ids;

    /// <summary>Token ids and the stretch of the text that each came from.</summary>
    public abstract TokenizedText EncodeWithOffsets(string text, bool addSpecialTokens = true);

    /// <summary>The text of ids; bytes that are no valid UTF-8 become U+FFFD, as in the <c>tokenizers</c> library.</summary>
    /// <param name="ids">Token ids; one outside the vocabulary is skipped.</param>
    /// <param name="skipSpecialTokens">Whether added tokens marked as special are left out.</param>
    public abstract string Decode(IReadOnlyList<int> ids, bool skipSpecialTokens = false);

    /// <summary>The id of a token as the vocabulary writes it; null when there is none.</summary>
    public abstract int? TokenToId(string token);

    /// <summary>A token as the vocabulary writes it; null when there is none of this id.</summary>
    public abstract string? IdToToken(int id);

    /// <summary>Whether the id is an added token marked as special.</summary>
    public abstract bool IsSpecial(int id);

    /// <summary>The bytes a token stands for (not yet valid UTF-8 by itself): for token masks and log-probabilities.</summary>
    public abstract ReadOnlyMemory<byte> TokenBytes(int id);
}

/// <summary>What <see cref="Tokenizer.EncodeWithOffsets"/> gives.</summary>
/// <param name="Ids">Token ids.</param>
/// <param name="Offsets">For each token the stretch [start, end) of the given text in UTF-16 code units; (0, 0) for added special tokens.</param>
public sealed record TokenizedText(int[] Ids, (int Start, int End)[] Offsets);
