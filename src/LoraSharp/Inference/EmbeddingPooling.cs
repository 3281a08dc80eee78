namespace LoraSharp.Inference;

/// <summary>How the last hidden states of a text's tokens become one vector.</summary>
public enum EmbeddingPooling
{
    /// <summary>Their mean.</summary>
    Mean,

    /// <summary>That of the last token, which is the only one that has seen the whole text.</summary>
    Last,
}
