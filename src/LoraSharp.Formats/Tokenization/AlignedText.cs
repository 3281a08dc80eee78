using System.Text;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// One output code point of a transformation: 0 replaces the next input code point, a positive number inserts, -n
/// replaces and swallows n more after it. This is how the <c>tokenizers</c> library keeps alignments.
/// </summary>
internal readonly record struct TextChange(int CodePoint, int Delta);

/// <summary>A stretch of text and whether a pattern matched it.</summary>
internal readonly record struct MatchSpan(int Start, int End, bool IsMatch);

/// <summary>
/// Text on its way through normalizers, with the stretch of the original text that each UTF-16 unit came from. A slice
/// knows where in the original it began.
/// </summary>
internal sealed class AlignedText
{
    // Null while nothing has been changed: unit i came from Origin + i.
    private int[]? _starts;
    private int[]? _ends;

    public AlignedText(string text, int origin)
    {
        Text = text;
        Origin = origin;
        BeginsText = origin == 0;
    }

    private AlignedText(string text, int origin, int[]? starts, int[]? ends)
        : this(text, origin)
    {
        _starts = starts;
        _ends = ends;
    }

    /// <summary>The text as it is now.</summary>
    public string Text { get; private set; }

    /// <summary>Where the slice begins in the original text.</summary>
    public int Origin { get; }

    /// <summary>Whether nothing is before it, be it that a normalizer dropped what was.</summary>
    public bool BeginsText { get; private init; }

    /// <summary>The original stretch of a stretch of this text.</summary>
    public (int Start, int End) OriginalRange(int start, int end)
    {
        if (start == end)
        {
            return (Origin + start, Origin + end);
        }

        if (_starts is not null)
        {
            return (_starts[start], _ends![end - 1]);
        }

        return (Origin + start - (CodePoints.SplitsPair(Text, start) ? 1 : 0), Origin + end + (CodePoints.SplitsPair(Text, end) ? 1 : 0));
    }

    public AlignedText Slice(int start, int end)
    {
        if (start == 0 && end == Text.Length && (_starts is null || end == 0 || _starts[0] == Origin))
        {
            return this;
        }

        int origin = _starts is null ? Origin + start : start < end ? _starts[start] : Origin;
        return new AlignedText(Text[start..end], origin, _starts?[start..end], _ends?[start..end]) { BeginsText = BeginsText && start == 0 };
    }

    /// <summary>Rewrites the whole text.</summary>
    /// <param name="changes">The new code points.</param>
    /// <param name="removedAtStart">How many code points before the first of them are dropped.</param>
    public void Transform(List<TextChange> changes, int removedAtStart = 0)
    {
        Materialize();
        var builder = new StringBuilder(changes.Count);
        var starts = new List<int>(changes.Count);
        var ends = new List<int>(changes.Count);
        int position = 0;
        Advance(ref position, removedAtStart);
        foreach (TextChange change in changes)
        {
            (int start, int end) = change.Delta > 0
                ? position == 0 ? (Origin, Origin) : (_starts![position - 1], _ends![position - 1])
                : (_starts![Math.Min(position, _starts.Length - 1)], _ends![Math.Min(position, _ends.Length - 1)]);
            if (change.Delta <= 0)
            {
                Advance(ref position, 1 - change.Delta);
            }

            CodePoints.AppendTo(builder, change.CodePoint);
            while (starts.Count < builder.Length)
            {
                starts.Add(start);
                ends.Add(end);
            }
        }

        Replace(builder.ToString(), [.. starts], [.. ends]);
    }

    /// <summary>Keeps the code points that <paramref name="keep"/> says.</summary>
    public void Filter(Func<int, bool> keep)
    {
        var changes = new List<TextChange>(Text.Length);
        int removed = 0, removedAtStart = 0;
        int last = -1;
        for (int i = 0; i < Text.Length;)
        {
            int codePoint = CodePoints.At(Text, i, out int width);
            i += width;
            if (!keep(codePoint))
            {
                removed++;
                continue;
            }

            if (last >= 0)
            {
                changes.Add(new TextChange(last, -removed));
            }
            else
            {
                removedAtStart = removed;
            }

            last = codePoint;
            removed = 0;
        }

        if (last >= 0)
        {
            if (removed == 0 && removedAtStart == 0 && changes.TrueForAll(change => change.Delta == 0))
            {
                return;
            }

            changes.Add(new TextChange(last, -removed));
        }

        Transform(changes, removedAtStart);
    }

    /// <summary>Replaces code points one by one.</summary>
    public void Map(Func<int, int> map)
    {
        var changes = new List<TextChange>(Text.Length);
        bool changed = false;
        for (int i = 0; i < Text.Length;)
        {
            int codePoint = CodePoints.At(Text, i, out int width);
            i += width;
            int mapped = map(codePoint);
            changed |= mapped != codePoint;
            changes.Add(new TextChange(mapped, 0));
        }

        if (changed)
        {
            Transform(changes);
        }
    }

    /// <summary>Puts text in front; it is aligned with the first code point. Does nothing to an empty text.</summary>
    public void Prepend(string text)
    {
        if (Text.Length == 0 || text.Length == 0)
        {
            return;
        }

        CodePoints.At(Text, 0, out int width);
        (int start, int end) = OriginalRange(0, width);
        Materialize();
        int[] starts = new int[Text.Length + text.Length];
        int[] ends = new int[starts.Length];
        starts.AsSpan(0, text.Length).Fill(start);
        ends.AsSpan(0, text.Length).Fill(end);
        _starts!.CopyTo(starts, text.Length);
        _ends!.CopyTo(ends, text.Length);
        Replace(text + Text, starts, ends);
    }

    /// <summary>Replaces matches by a text, which is aligned with the last unit of each match.</summary>
    public void ReplaceMatches(List<MatchSpan> spans, string content)
    {
        if (!spans.Exists(span => span.IsMatch))
        {
            return;
        }

        Materialize();
        var builder = new StringBuilder(Text.Length);
        var starts = new List<int>(Text.Length);
        var ends = new List<int>(Text.Length);
        foreach (MatchSpan span in spans)
        {
            if (!span.IsMatch)
            {
                builder.Append(Text, span.Start, span.End - span.Start);
                starts.AddRange(_starts.AsSpan(span.Start, span.End - span.Start));
                ends.AddRange(_ends.AsSpan(span.Start, span.End - span.Start));
                continue;
            }

            builder.Append(content);
            (int start, int end) = span.End == 0 ? (Origin, Origin) : (_starts![span.End - 1], _ends![span.End - 1]);
            while (starts.Count < builder.Length)
            {
                starts.Add(start);
                ends.Add(end);
            }
        }

        Replace(builder.ToString(), [.. starts], [.. ends]);
    }

    /// <summary>Replaces one UTF-16 unit by another everywhere: alignments stay.</summary>
    public void ReplaceChar(char from, char to) => Text = Text.Replace(from, to);

    private void Advance(ref int position, int codePoints)
    {
        for (int n = 0; n < codePoints && position < Text.Length; n++)
        {
            CodePoints.At(Text, position, out int width);
            position += width;
        }
    }

    private void Materialize()
    {
        if (_starts is not null)
        {
            return;
        }

        _starts = new int[Text.Length];
        _ends = new int[Text.Length];
        for (int i = 0; i < Text.Length;)
        {
            CodePoints.At(Text, i, out int width);
            for (int k = 0; k < width; k++)
            {
                _starts[i + k] = Origin + i;
                _ends[i + k] = Origin + i + width;
            }

            i += width;
        }
    }

    private void Replace(string text, int[] starts, int[] ends)
    {
        Text = text;
        _starts = starts;
        _ends = ends;
    }
}
