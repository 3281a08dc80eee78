namespace LoraSharp.Formats.Tokenization.Patterns;

/// <summary>What happens to the matches when a text is split at them.</summary>
internal enum SplitBehavior
{
    /// <summary>They are dropped: the-final → the, final.</summary>
    Removed,

    /// <summary>Each is a piece of its own: the, -, final.</summary>
    Isolated,

    /// <summary>Each ends the piece before it: the-, final.</summary>
    MergedWithPrevious,

    /// <summary>Each begins the piece after it: the, -final.</summary>
    MergedWithNext,

    /// <summary>Neighbouring ones are one piece: the, --, final.</summary>
    Contiguous,
}

/// <summary>Turns matches and gaps into the pieces a <see cref="SplitBehavior"/> asks for.</summary>
internal static class SplitBehaviors
{
    /// <summary>Rewrites the list in place; afterwards IsMatch marks what is to be dropped.</summary>
    /// <param name="spans">Matches and gaps in order.</param>
    /// <param name="from">Index of the first to look at.</param>
    /// <param name="behavior">What to do.</param>
    public static void Apply(List<MatchSpan> spans, int from, SplitBehavior behavior)
    {
        if (behavior == SplitBehavior.Removed)
        {
            return;
        }

        if (behavior == SplitBehavior.MergedWithNext)
        {
            MergeWithNext(spans, from);
            return;
        }

        int kept = from;
        bool previousMatch = false;
        for (int i = from; i < spans.Count; i++)
        {
            MatchSpan span = spans[i];
            bool joins = behavior switch
            {
                SplitBehavior.Contiguous => span.IsMatch == previousMatch,
                SplitBehavior.MergedWithPrevious => span.IsMatch && !previousMatch,
                _ => false,
            };
            if (joins && kept > from)
            {
                spans[kept - 1] = new MatchSpan(spans[kept - 1].Start, span.End, false);
            }
            else
            {
                spans[kept++] = new MatchSpan(span.Start, span.End, false);
            }

            previousMatch = span.IsMatch;
        }

        spans.RemoveRange(kept, spans.Count - kept);
    }

    private static void MergeWithNext(List<MatchSpan> spans, int from)
    {
        int kept = spans.Count;
        bool previousMatch = false;
        for (int i = spans.Count - 1; i >= from; i--)
        {
            MatchSpan span = spans[i];
            if (span.IsMatch && !previousMatch && kept < spans.Count)
            {
                spans[kept] = new MatchSpan(span.Start, spans[kept].End, false);
            }
            else
            {
                spans[--kept] = new MatchSpan(span.Start, span.End, false);
            }

            previousMatch = span.IsMatch;
        }

        spans.RemoveRange(from, kept - from);
    }
}
