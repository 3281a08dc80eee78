using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Formats.Tokenization.PreTokenizers;

/// <summary>When SentencePiece's ▁ goes in front.</summary>
internal enum PrependScheme
{
    /// <summary>Before every piece.</summary>
    Always,

    /// <summary>Before the piece that begins the text.</summary>
    First,

    /// <summary>Never.</summary>
    Never,

    /// <summary>Before the whole text, whatever it begins with.</summary>
    Start,
}

/// <summary>SentencePiece's view of blanks: they are ▁ and begin the word after them.</summary>
internal sealed class MetaspacePreTokenizer(string replacement, PrependScheme scheme, bool split) : PreTokenizer
{
    private readonly PatternSplitter _splitter = new(new LiteralPattern(replacement), SplitBehavior.MergedWithNext);
    private readonly LiteralPattern _blank = new(" ");

    protected override void Split(AlignedText text, List<Piece> output)
    {
        if (replacement.Length == 1)
        {
            text.ReplaceChar(' ', replacement[0]);
        }
        else
        {
            text.ReplaceMatches(_blank.FindMatches(text.Text), replacement);
        }

        if (scheme == PrependScheme.Start && text.BeginsText && text.Text.Length > 0)
        {
            text.Prepend(replacement);
        }
        else if ((scheme == PrependScheme.Always || (scheme == PrependScheme.First && text.Origin == 0))
            && !text.Text.StartsWith(replacement, StringComparison.Ordinal))
        {
            text.Prepend(replacement);
        }

        if (split)
        {
            output.AddRange(_splitter.Apply([new Piece(text)]));
        }
        else
        {
            output.Add(new Piece(text));
        }
    }
}

/// <summary>Pieces of so many code points.</summary>
internal sealed class FixedLengthSplitter(int length) : SpanSplitter
{
    public override void SplitSpan(string text, int start, int end, List<MatchSpan> output)
    {
        for (int i = start; i < end;)
        {
            int from = i;
            for (int n = 0; n < length && i < end; n++)
            {
                CodePoints.At(text, i, out int width);
                i += width;
            }

            output.Add(new MatchSpan(from, i, false));
        }
    }
}

/// <summary>
/// Cuts where the script changes; kana count as Han, and blanks and characters of no script go with what is before
/// them. Those at the very beginning are dropped, as in the library.
/// </summary>
internal sealed class UnicodeScriptsSplitter : SpanSplitter
{
    public override void SplitSpan(string text, int start, int end, List<MatchSpan> output)
    {
        int last = -1;
        int from = -1;
        for (int i = start; i < end;)
        {
            int codePoint = CodePoints.At(text, i, out int width);
            int script = Script(codePoint);
            if (script != UnicodeProperties.Any)
            {
                if (script != last)
                {
                    if (from >= 0)
                    {
                        output.Add(new MatchSpan(from, i, false));
                    }

                    from = i;
                }

                last = script;
            }

            i += width;
        }

        if (from >= 0)
        {
            output.Add(new MatchSpan(from, end, false));
        }
    }

    private static int Script(int codePoint)
    {
        if (codePoint == 0x30FC)
        {
            return UnicodeProperties.Han;
        }

        int script = codePoint == ' ' ? UnicodeProperties.Any : UnicodeProperties.Of(codePoint);
        return script == UnicodeProperties.Hiragana || script == UnicodeProperties.Katakana ? UnicodeProperties.Han : script;
    }
}

/// <summary>The pre-tokenizers that are a pattern and a behavior.</summary>
internal static class SplitterKinds
{
    /// <summary>Words and runs of other characters; whitespace vanishes.</summary>
    public static PatternSplitter Whitespace() => new(
        new RunPattern(codePoint => CodePoints.IsWord(codePoint) ? 1 : CodePoints.IsWhiteSpace(codePoint) ? 0 : 2),
        SplitBehavior.Removed,
        invert: true);

    /// <summary>At whitespace, which vanishes.</summary>
    public static PatternSplitter WhitespaceSplit() => new(new CodePointPattern(CodePoints.IsWhiteSpace), SplitBehavior.Removed);

    /// <summary>Numbers apart from the rest.</summary>
    public static PatternSplitter Digits(bool individual) =>
        new(new CodePointPattern(CodePoints.IsNumeric), individual ? SplitBehavior.Isolated : SplitBehavior.Contiguous);

    /// <summary>At punctuation.</summary>
    public static PatternSplitter Punctuation(SplitBehavior behavior) => new(new CodePointPattern(CodePoints.IsPunctuation), behavior);

    /// <summary>At one character, which vanishes.</summary>
    public static PatternSplitter Delimiter(int codePoint) => new(new CodePointPattern(other => other == codePoint), SplitBehavior.Removed);
}
