namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>What turns a pre-tokenized piece into ids: BPE, Unigram, WordPiece or WordLevel.</summary>
internal abstract class TokenModel
{
    /// <summary>Number of tokens in the model's own vocabulary (added tokens not counted).</summary>
    public abstract int Count { get; }

    /// <summary>One more than the largest id of the model's own vocabulary.</summary>
    public abstract int IdLimit { get; }

    /// <summary>Appends the tokens of a piece.</summary>
    public abstract void Tokenize(ReadOnlySpan<char> piece, TokenBuffer output);

    /// <summary>The id of a token, or null.</summary>
    public abstract int? TokenToId(string token);

    /// <summary>The token of an id, or null.</summary>
    public abstract string? IdToToken(int id);
}
