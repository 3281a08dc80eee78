using System.Globalization;
using LoraSharp.Formats.Tokenization.Patterns;
using LoraSharp.Formats.Tokenization.PreTokenizers;

namespace LoraSharp.Formats.Tokenization.Normalizers;

/// <summary>One normalizer after the other.</summary>
internal sealed class SequenceNormalizer(IReadOnlyList<Normalizer> steps) : Normalizer
{
    public override void Apply(AlignedText text)
    {
        foreach (Normalizer step in steps)
        {
            step.Apply(text);
        }
    }

    public override bool LeavesAlone(ReadOnlySpan<char> text)
    {
        foreach (Normalizer step in steps)
        {
            if (!step.LeavesAlone(text))
            {
                return false;
            }
        }

        return true;
    }
}

/// <summary>Lower case by Unicode's full mapping, character by character.</summary>
internal sealed class LowercaseNormalizer : Normalizer
{
    public override void Apply(AlignedText text)
    {
        var changes = new List<TextChange>(text.Text.Length);
        bool changed = false;
        for (int i = 0; i < text.Text.Length;)
        {
            int codePoint = CodePoints.At(text.Text, i, out int width);
            i += width;
            if (codePoint == 0x130)
            {
                // The one character whose lower case is two: i and a combining dot.
                changes.Add(new TextChange('i', 0));
                changes.Add(new TextChange(0x307, 1));
                changed = true;
                continue;
            }

            int lower = Lower(codePoint);
            changed |= lower != codePoint;
            changes.Add(new TextChange(lower, 0));
        }

        if (changed)
        {
            text.Transform(changes);
        }
    }

    private static int Lower(int codePoint) =>
        codePoint is >= 0xD800 and <= 0xDFFF ? codePoint : System.Text.Rune.ToLowerInvariant(new System.Text.Rune(codePoint)).Value;
}

/// <summary>Takes whitespace off the ends.</summary>
internal sealed class StripNormalizer(bool left, bool right) : Normalizer
{
    public override void Apply(AlignedText text)
    {
        string value = text.Text;
        int start = 0;
        while (left && start < value.Length && char.IsWhiteSpace(value[start]))
        {
            start++;
        }

        int end = value.Length;
        while (right && end > start && char.IsWhiteSpace(value[end - 1]))
        {
            end--;
        }

        if (start == 0 && end == value.Length)
        {
            return;
        }

        var changes = new List<TextChange>(end - start);
        for (int i = start; i < end;)
        {
            int codePoint = CodePoints.At(value, i, out int width);
            i += width;
            changes.Add(new TextChange(codePoint, i == end ? end - value.Length : 0));
        }

        text.Transform(changes, start);
    }
}

/// <summary>Drops combining marks.</summary>
internal sealed class StripAccentsNormalizer : Normalizer
{
    public override void Apply(AlignedText text) => text.Filter(codePoint => !CodePoints.IsMark(codePoint));
}

/// <summary>Replaces what a pattern matches.</summary>
internal sealed class ReplaceNormalizer(TextPattern pattern, string content) : Normalizer
{
    public override void Apply(AlignedText text)
    {
        if (pattern is LiteralPattern { Literal.Length: 1 } single && content.Length == 1)
        {
            text.ReplaceChar(single.Literal[0], content[0]);
            return;
        }

        text.ReplaceMatches(pattern.FindMatches(text.Text), content);
    }
}

/// <summary>Puts text in front of a text that is not empty.</summary>
internal sealed class PrependNormalizer(string prefix) : Normalizer
{
    public override void Apply(AlignedText text) => text.Prepend(prefix);
}

/// <summary>Bytes as characters of the byte-level alphabet.</summary>
internal sealed class ByteLevelNormalizer : Normalizer
{
    public override void Apply(AlignedText text) => ByteLevelPreTokenizer.ToByteLevel(text);
}

/// <summary>SentencePiece's nmt rules: control characters vanish, odd blanks become plain ones.</summary>
internal sealed class NmtNormalizer : Normalizer
{
    public override void Apply(AlignedText text)
    {
        text.Filter(codePoint => codePoint is not ((>= 0x01 and <= 0x08) or 0x0B or (>= 0x0E and <= 0x1F) or 0x7F or 0x8F or 0x9F));
        text.Map(codePoint => codePoint switch
        {
            0x09 or 0x0A or 0x0C or 0x0D or 0x1680 or (>= 0x200B and <= 0x200F) or 0x2028 or 0x2029 or 0x2581 or 0xFEFF or 0xFFFD => ' ',
            _ => codePoint,
        });
    }
}

/// <summary>BERT's: clean text, blanks around Chinese characters, accents off, lower case.</summary>
internal sealed class BertNormalizer(bool cleanText, bool handleChineseChars, bool? stripAccents, bool lowercase) : Normalizer
{
    private readonly UnicodeFormNormalizer _decompose = new(System.Text.NormalizationForm.FormD);
    private readonly LowercaseNormalizer _lower = new();

    public override void Apply(AlignedText text)
    {
        if (cleanText)
        {
            text.Filter(codePoint => codePoint is not (0 or 0xFFFD) && !IsControl(codePoint));
            text.Map(codePoint => CodePoints.IsWhiteSpace(codePoint) ? ' ' : codePoint);
        }

        if (handleChineseChars)
        {
            SpaceChinese(text);
        }

        if (stripAccents ?? lowercase)
        {
            _decompose.Apply(text);
            text.Filter(codePoint => CodePoints.Category(codePoint) != UnicodeCategory.NonSpacingMark);
        }

        if (lowercase)
        {
            _lower.Apply(text);
        }
    }

    private static void SpaceChinese(AlignedText text)
    {
        var changes = new List<TextChange>(text.Text.Length);
        bool changed = false;
        for (int i = 0; i < text.Text.Length;)
        {
            int codePoint = CodePoints.At(text.Text, i, out int width);
            i += width;
            if (!IsChinese(codePoint))
            {
                changes.Add(new TextChange(codePoint, 0));
                continue;
            }

            changed = true;
            changes.Add(new TextChange(' ', 0));
            changes.Add(new TextChange(codePoint, 1));
            changes.Add(new TextChange(' ', 1));
        }

        if (changed)
        {
            text.Transform(changes);
        }
    }

    // Unassigned code points stay, as in the library, whose C has Cc, Cf and Co.
    private static bool IsControl(int codePoint) => codePoint is not ('\t' or '\n' or '\r')
        && CodePoints.Category(codePoint) is UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate or UnicodeCategory.PrivateUse;

    private static bool IsChinese(int codePoint) => codePoint is (>= 0x4E00 and <= 0x9FFF) or (>= 0x3400 and <= 0x4DBF)
        or (>= 0x20000 and <= 0x2A6DF) or (>= 0x2A700 and <= 0x2B73F) or (>= 0x2B740 and <= 0x2B81F)
        or (>= 0x2B920 and <= 0x2CEAF) or (>= 0xF900 and <= 0xFAFF) or (>= 0x2F800 and <= 0x2FA1F);
}
