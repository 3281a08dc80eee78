namespace LoraSharp.Formats.Tokenization.Patterns;

/// <summary>Something that finds matches in a text.</summary>
internal abstract class TextPattern
{
    /// <summary>Appends stretches that cover the text from end to end, matches and what lies between them.</summary>
    public abstract void FindMatches(string text, int start, int end, List<MatchSpan> output);

    /// <summary>Covers a text with its matches.</summary>
    public List<MatchSpan> FindMatches(string text)
    {
        var spans = new List<MatchSpan>();
        FindMatches(text, 0, text.Length, spans);
        return spans;
    }

    /// <summary>Appends a match and the gap before it.</summary>
    protected static void AddMatch(List<MatchSpan> output, ref int previous, int start, int end)
    {
        if (previous != start)
        {
            output.Add(new MatchSpan(previous, start, false));
        }

        output.Add(new MatchSpan(start, end, true));
        previous = end;
    }
}

/// <summary>A literal string; an empty one matches nothing.</summary>
internal sealed class LiteralPattern(string literal) : TextPattern
{
    public string Literal => literal;

    public override void FindMatches(string text, int start, int end, List<MatchSpan> output)
    {
        int previous = start;
        ReadOnlySpan<char> span = text.AsSpan(0, end);
        while (literal.Length > 0)
        {
            int found = span[previous..].IndexOf(literal, StringComparison.Ordinal);
            if (found < 0)
            {
                break;
            }

            AddMatch(output, ref previous, previous + found, previous + found + literal.Length);
        }

        if (previous != end)
        {
            output.Add(new MatchSpan(previous, end, false));
        }
    }
}

/// <summary>Single code points that a predicate accepts, each its own match.</summary>
internal sealed class CodePointPattern(Func<int, bool> predicate) : TextPattern
{
    public override void FindMatches(string text, int start, int end, List<MatchSpan> output)
    {
        int previous = start;
        for (int i = start; i < end;)
        {
            int codePoint = CodePoints.At(text, i, out int width);
            if (predicate(codePoint))
            {
                AddMatch(output, ref previous, i, i + width);
            }

            i += width;
        }

        if (previous != end)
        {
            output.Add(new MatchSpan(previous, end, false));
        }
    }
}

/// <summary>Runs of code points of one kind, each run a match; kind 0 is a gap.</summary>
internal sealed class RunPattern(Func<int, int> kindOf) : TextPattern
{
    public override void FindMatches(string text, int start, int end, List<MatchSpan> output)
    {
        int previous = start;
        for (int i = start; i < end;)
        {
            int kind = kindOf(CodePoints.At(text, i, out int width));
            int run = i;
            i += width;
            while (i < end && kindOf(CodePoints.At(text, i, out width)) == kind)
            {
                i += width;
            }

            if (kind != 0)
            {
                AddMatch(output, ref previous, run, i);
            }
        }

        if (previous != end)
        {
            output.Add(new MatchSpan(previous, end, false));
        }
    }
}
