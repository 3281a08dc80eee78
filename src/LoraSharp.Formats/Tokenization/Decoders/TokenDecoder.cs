namespace LoraSharp.Formats.Tokenization.Decoders;

/// <summary>Undoes what normalizer and pre-tokenizer did, on the way from tokens to text.</summary>
internal abstract class TokenDecoder
{
    /// <summary>Rewrites the tokens; joined, the last result is the text.</summary>
    public abstract List<string> Apply(List<string> tokens);

    /// <summary>The bytes one token stands for, seen alone; null: the UTF-8 of the token's text.</summary>
    public virtual byte[]? BytesOf(string token) => null;
}
