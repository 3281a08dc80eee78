using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Formats.Tokenization.PreTokenizers;

/// <summary>A piece of the text: to be cut further, or an added token that nothing touches any more.</summary>
/// <param name="Text">The piece.</param>
/// <param name="AddedId">The added token's id, or -1.</param>
internal readonly record struct Piece(AlignedText Text, int AddedId = -1);

/// <summary>Cuts pieces into smaller ones: words for the model.</summary>
internal abstract class PreTokenizer
{
    /// <summary>Cuts every piece that is no added token; empty pieces vanish.</summary>
    public List<Piece> Apply(List<Piece> pieces)
    {
        var output = new List<Piece>(pieces.Count);
        foreach (Piece piece in pieces)
        {
            if (piece.AddedId >= 0)
            {
                output.Add(piece);
            }
            else
            {
                Split(piece.Text, output);
            }
        }

        output.RemoveAll(piece => piece.AddedId < 0 && piece.Text.Text.Length == 0);
        return output;
    }

    /// <summary>Appends the pieces of one text.</summary>
    protected abstract void Split(AlignedText text, List<Piece> output);
}

/// <summary>A pre-tokenizer that only cuts and changes no character, so that it can also work on the bare text.</summary>
internal abstract class SpanSplitter : PreTokenizer
{
    /// <summary>Appends the stretches of text[start..end); IsMatch marks those to drop.</summary>
    public abstract void SplitSpan(string text, int start, int end, List<MatchSpan> output);

    protected override void Split(AlignedText text, List<Piece> output)
    {
        var spans = new List<MatchSpan>();
        SplitSpan(text.Text, 0, text.Text.Length, spans);
        foreach (MatchSpan span in spans)
        {
            if (!span.IsMatch && span.End > span.Start)
            {
                output.Add(new Piece(text.Slice(span.Start, span.End)));
            }
        }
    }
}

/// <summary>Splits at a pattern.</summary>
internal sealed class PatternSplitter(TextPattern pattern, SplitBehavior behavior, bool invert = false) : SpanSplitter
{
    public override void SplitSpan(string text, int start, int end, List<MatchSpan> output)
    {
        int from = output.Count;
        pattern.FindMatches(text, start, end, output);
        if (invert)
        {
            for (int i = from; i < output.Count; i++)
            {
                output[i] = output[i] with { IsMatch = !output[i].IsMatch };
            }
        }

        SplitBehaviors.Apply(output, from, behavior);
    }
}

/// <summary>One pre-tokenizer after the other.</summary>
internal sealed class SequencePreTokenizer(IReadOnlyList<PreTokenizer> steps) : PreTokenizer
{
    public IReadOnlyList<PreTokenizer> Steps => steps;

    protected override void Split(AlignedText text, List<Piece> output)
    {
        List<Piece> pieces = [new Piece(text)];
        foreach (PreTokenizer step in steps)
        {
            pieces = step.Apply(pieces);
        }

        output.AddRange(pieces);
    }
}
