namespace LoraSharp.Formats.Tokenization.Normalizers;

/// <summary>Rewrites a text before it is cut, keeping track of where everything came from.</summary>
internal abstract class Normalizer
{
    /// <summary>Rewrites the text in place.</summary>
    public abstract void Apply(AlignedText text);

    /// <summary>Whether it certainly leaves this text as it is; lets plain text take the short way.</summary>
    public virtual bool LeavesAlone(ReadOnlySpan<char> text) => false;
}
