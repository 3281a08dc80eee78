namespace LoraSharp.Formats.Tokenization;

/// <summary>A token that is found in the text before the model sees it, e.g. <c>&lt;|im_start|&gt;</c>.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Content">Its text.</param>
public sealed record AddedToken(int Id, string Content)
{
    /// <summary>Whether it is left out of decoded text on request.</summary>
    public bool Special { get; init; }

    /// <summary>Whether it is looked for in the normalized text (in its own normalized form) instead of the raw one.</summary>
    public bool Normalized { get; init; }

    /// <summary>Whether it must not touch word characters on either side.</summary>
    public bool SingleWord { get; init; }

    /// <summary>Whether it swallows whitespace before it.</summary>
    public bool StripLeft { get; init; }

    /// <summary>Whether it swallows whitespace after it.</summary>
    public bool StripRight { get; init; }
}
