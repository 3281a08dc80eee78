namespace LoraSharp.Formats.Tokenization.PostProcessors;

/// <summary>The tokens of a text on their way out.</summary>
internal sealed class EncodedTokens
{
    public required List<int> Ids { get; set; }

    public required List<(int Start, int End)> Offsets { get; set; }

    /// <summary>Tokens as text, where a post-processor looks at them; null where offsets are of no interest.</summary>
    public required List<string>? Tokens { get; set; }
}

/// <summary>Adds what a model expects around a text and tidies offsets.</summary>
internal abstract class PostProcessor
{
    /// <summary>Rewrites the tokens in place.</summary>
    public abstract void Apply(EncodedTokens tokens, bool addSpecialTokens);
}

/// <summary>One post-processor after the other.</summary>
internal sealed class SequencePostProcessor(IReadOnlyList<PostProcessor> steps) : PostProcessor
{
    public override void Apply(EncodedTokens tokens, bool addSpecialTokens)
    {
        foreach (PostProcessor step in steps)
        {
            step.Apply(tokens, addSpecialTokens);
        }
    }
}

/// <summary>Takes blanks off the offsets of byte-level tokens.</summary>
internal sealed class ByteLevelPostProcessor(bool addPrefixSpace, bool trimOffsets) : PostProcessor
{
    public override void Apply(EncodedTokens tokens, bool addSpecialTokens)
    {
        if (trimOffsets && tokens.Tokens is not null)
        {
            TrimOffsets(tokens, addPrefixSpace);
        }
    }

    public static void TrimOffsets(EncodedTokens tokens, bool addPrefixSpace)
    {
        for (int i = 0; i < tokens.Ids.Count; i++)
        {
            string token = tokens.Tokens![i];
            int leading = 0;
            while (leading < token.Length && IsBlank(token[leading]))
            {
                leading++;
            }

            int trailing = 0;
            while (trailing < token.Length && IsBlank(token[token.Length - 1 - trailing]))
            {
                trailing++;
            }

            (int start, int end) = tokens.Offsets[i];
            if (leading > 0)
            {
                // One leading blank of the first token is the one that add_prefix_space put there.
                bool own = (i == 0 || start == 0) && addPrefixSpace && leading == 1;
                start = Math.Min(start + (own ? 0 : leading), end);
            }

            if (trailing > 0 && end >= trailing)
            {
                end = Math.Max(end - trailing, start);
            }

            tokens.Offsets[i] = (start, end);
        }
    }

    private static bool IsBlank(char unit) => unit == ByteLevelAlphabet.ToChar((byte)' ') || char.IsWhiteSpace(unit);
}

/// <summary>Fixed tokens around the text: templates, and the older Bert and Roberta processors, which are templates too.</summary>
internal sealed class TemplatePostProcessor : PostProcessor
{
    private readonly IReadOnlyList<TemplatePiece> _pieces;
    private readonly bool _trimOffsets;
    private readonly bool _addPrefixSpace;

    /// <param name="pieces">The template for a single text.</param>
    /// <param name="trimOffsets">Roberta: take blanks off offsets first.</param>
    /// <param name="addPrefixSpace">Roberta: see <see cref="ByteLevelPostProcessor"/>.</param>
    public TemplatePostProcessor(IReadOnlyList<TemplatePiece> pieces, bool trimOffsets = false, bool addPrefixSpace = false)
    {
        _pieces = pieces;
        _trimOffsets = trimOffsets;
        _addPrefixSpace = addPrefixSpace;
    }

    public override void Apply(EncodedTokens tokens, bool addSpecialTokens)
    {
        if (_trimOffsets && tokens.Tokens is not null)
        {
            ByteLevelPostProcessor.TrimOffsets(tokens, _addPrefixSpace);
        }

        if (!addSpecialTokens)
        {
            return;
        }

        var ids = new List<int>(tokens.Ids.Count + 4);
        var offsets = new List<(int, int)>(ids.Capacity);
        List<string>? texts = tokens.Tokens is null ? null : new(ids.Capacity);
        foreach (TemplatePiece piece in _pieces)
        {
            ids.AddRange(piece.IsText ? tokens.Ids : piece.Ids);
            offsets.AddRange(piece.IsText ? tokens.Offsets : Enumerable.Repeat((0, 0), piece.Ids.Count));
            texts?.AddRange(piece.IsText ? tokens.Tokens! : piece.Tokens);
        }

        (tokens.Ids, tokens.Offsets, tokens.Tokens) = (ids, offsets, texts);
    }
}

/// <summary>A part of a template: the text, or tokens.</summary>
internal sealed record TemplatePiece(bool IsText, IReadOnlyList<int> Ids, IReadOnlyList<string> Tokens)
{
    public static TemplatePiece Text { get; } = new(true, [], []);
}
