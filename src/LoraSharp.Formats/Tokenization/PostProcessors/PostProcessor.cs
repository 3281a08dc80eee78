namespace LoraSharp.Formats.Tokenization.PostProcessors;

/// <summary>The tokens of a text on their way out.</summary>
internal sealed class EncodedTokens
{
    public required List<int> Ids { get; init; }

    public required List<(int Start, int End)> Offsets { get; init; }

    /// <summary>Tokens as text, where a post-processor looks at them; null where offsets are of no interest.</summary>
    public required List<string>? Tokens { get; init; }

    /// <summary>Several as one.</summary>
    public static EncodedTokens Join(IReadOnlyList<EncodedTokens> texts) => texts.Count == 1 ? texts[0] : new EncodedTokens
    {
        Ids = [.. texts.SelectMany(text => text.Ids)],
        Offsets = [.. texts.SelectMany(text => text.Offsets)],
        Tokens = texts.Any(text => text.Tokens is null) ? null : [.. texts.SelectMany(text => text.Tokens!)],
    };
}

/// <summary>
/// Adds what a model expects around a text and tidies offsets. A template leaves its pieces apart, and what follows it
/// in a sequence sees them as several texts: that is what the <c>tokenizers</c> library does.
/// </summary>
internal abstract class PostProcessor
{
    /// <summary>The texts that come out; joined at the end.</summary>
    public abstract List<EncodedTokens> Apply(List<EncodedTokens> texts, bool addSpecialTokens);
}

/// <summary>One post-processor after the other.</summary>
internal sealed class SequencePostProcessor(IReadOnlyList<PostProcessor> steps) : PostProcessor
{
    public override List<EncodedTokens> Apply(List<EncodedTokens> texts, bool addSpecialTokens)
    {
        foreach (PostProcessor step in steps)
        {
            texts = step.Apply(texts, addSpecialTokens);
        }

        return texts;
    }
}

/// <summary>Takes blanks off the offsets of byte-level tokens.</summary>
internal sealed class ByteLevelPostProcessor(bool addPrefixSpace, bool trimOffsets) : PostProcessor
{
    public override List<EncodedTokens> Apply(List<EncodedTokens> texts, bool addSpecialTokens)
    {
        if (trimOffsets)
        {
            texts.ForEach(text => TrimOffsets(text, addPrefixSpace));
        }

        return texts;
    }

    public static void TrimOffsets(EncodedTokens tokens, bool addPrefixSpace)
    {
        for (int i = 0; i < tokens.Tokens?.Count; i++)
        {
            string token = tokens.Tokens[i];
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

/// <summary>Tokens around one text, or around and between two.</summary>
internal sealed class TemplatePostProcessor(IReadOnlyList<TemplatePiece> single, IReadOnlyList<TemplatePiece> pair) : PostProcessor
{
    public override List<EncodedTokens> Apply(List<EncodedTokens> texts, bool addSpecialTokens)
    {
        if (texts.Count > 2)
        {
            throw new LoraSharpException($"The tokenizer's post_processor hands {texts.Count} pieces to TemplateProcessing, which takes one or two: the tokenizers library cannot run it either. Leave one TemplateProcessing in the sequence.");
        }

        var output = new List<EncodedTokens>();
        foreach (TemplatePiece piece in texts.Count == 1 ? single : pair)
        {
            if (piece.Text >= 0)
            {
                output.Add(texts[piece.Text]);
            }
            else if (addSpecialTokens)
            {
                output.Add(piece.Special());
            }
        }

        return output;
    }
}

/// <summary>The older processors of BERT and RoBERTa: the first text between CLS and SEP, every further one closed by SEP.</summary>
/// <param name="cls">Token before the first text.</param>
/// <param name="sep">Token after each text.</param>
/// <param name="doubled">RoBERTa: SEP before each further text, too.</param>
internal sealed class PairPostProcessor(TemplatePiece cls, TemplatePiece sep, bool doubled) : PostProcessor
{
    /// <summary>RoBERTa: whether blanks are taken off offsets first.</summary>
    public bool TrimOffsets { get; init; }

    /// <summary>RoBERTa: see <see cref="ByteLevelPostProcessor"/>.</summary>
    public bool AddPrefixSpace { get; init; }

    public override List<EncodedTokens> Apply(List<EncodedTokens> texts, bool addSpecialTokens)
    {
        if (TrimOffsets)
        {
            texts.ForEach(text => ByteLevelPostProcessor.TrimOffsets(text, AddPrefixSpace));
        }

        return addSpecialTokens
            ? [.. texts.Select((text, i) => EncodedTokens.Join(i == 0 ? [cls.Special(), text, sep.Special()] : doubled ? [sep.Special(), text, sep.Special()] : [text, sep.Special()]))]
            : texts;
    }
}

/// <summary>A part of a template: a text by its place, or (-1) tokens.</summary>
internal sealed record TemplatePiece(int Text, IReadOnlyList<int> Ids, IReadOnlyList<string> Tokens)
{
    /// <summary>The first text.</summary>
    public static TemplatePiece First { get; } = new(0, [], []);

    /// <summary>The second text.</summary>
    public static TemplatePiece Second { get; } = new(1, [], []);

    /// <summary>The tokens, which come from nowhere in the text.</summary>
    public EncodedTokens Special() => new() { Ids = [.. Ids], Offsets = [.. Ids.Select(_ => (0, 0))], Tokens = [.. Tokens] };
}
