using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// Questions about code points as the <c>tokenizers</c> library asks them. Everything works on whole code points:
/// <c>char</c> alone cannot tell that 𝔘 (two UTF-16 units) is a letter.
/// </summary>
internal static class CodePoints
{
    /// <summary>The code point at a position; a lone surrogate is itself.</summary>
    /// <param name="text">UTF-16 text.</param>
    /// <param name="index">A position within it.</param>
    /// <param name="width">How many UTF-16 units it takes.</param>
    public static int At(ReadOnlySpan<char> text, int index, out int width)
    {
        char first = text[index];
        if (char.IsHighSurrogate(first) && index + 1 < text.Length && char.IsLowSurrogate(text[index + 1]))
        {
            width = 2;
            return char.ConvertToUtf32(first, text[index + 1]);
        }

        width = 1;
        return first;
    }

    /// <summary>The code point that ends right before a position.</summary>
    public static int Before(ReadOnlySpan<char> text, int index)
    {
        char last = text[index - 1];
        return char.IsLowSurrogate(last) && index >= 2 && char.IsHighSurrogate(text[index - 2])
            ? char.ConvertToUtf32(text[index - 2], last)
            : last;
    }

    /// <summary>Whether a position lies inside a surrogate pair.</summary>
    public static bool SplitsPair(ReadOnlySpan<char> text, int index) =>
        index > 0 && index < text.Length && char.IsLowSurrogate(text[index]) && char.IsHighSurrogate(text[index - 1]);

    /// <summary>Appends a code point as UTF-16.</summary>
    public static void AppendTo(StringBuilder builder, int codePoint)
    {
        if (codePoint < 0x10000)
        {
            builder.Append((char)codePoint);
        }
        else
        {
            builder.Append((char)(0xD800 + ((codePoint - 0x10000) >> 10))).Append((char)(0xDC00 + ((codePoint - 0x10000) & 0x3FF)));
        }
    }

    /// <summary>Text without lone surrogates: each becomes U+FFFD, as in any conversion to UTF-8.</summary>
    public static string WellFormed(string text)
    {
        for (int i = 0; i < text.Length; i++)
        {
            if (char.IsSurrogate(text[i]))
            {
                if (char.IsHighSurrogate(text[i]) && i + 1 < text.Length && char.IsLowSurrogate(text[i + 1]))
                {
                    i++;
                    continue;
                }

                return Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text));
            }
        }

        return text;
    }

    /// <summary>General category.</summary>
    public static UnicodeCategory Category(int codePoint) => CharUnicodeInfo.GetUnicodeCategory(codePoint);

    /// <summary>Unicode White_Space.</summary>
    public static bool IsWhiteSpace(int codePoint) => codePoint < 0x10000 && char.IsWhiteSpace((char)codePoint);

    /// <summary>Nd, Nl or No.</summary>
    public static bool IsNumeric(int codePoint) =>
        Category(codePoint) is UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber;

    /// <summary>Any letter category.</summary>
    public static bool IsLetter(int codePoint) => Category(codePoint) <= UnicodeCategory.OtherLetter;

    /// <summary>Mn, Mc or Me.</summary>
    public static bool IsMark(int codePoint) =>
        Category(codePoint) is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark;

    /// <summary>ASCII punctuation (which includes symbols such as $ and +) or any P category.</summary>
    public static bool IsPunctuation(int codePoint) =>
        codePoint < 0x80
            ? codePoint is (>= '!' and <= '/') or (>= ':' and <= '@') or (>= '[' and <= '`') or (>= '{' and <= '~')
            : Category(codePoint) is >= UnicodeCategory.ConnectorPunctuation and <= UnicodeCategory.OtherPunctuation;

    /// <summary>
    /// <c>\w</c> of Rust's regex crate, i.e. of UTS #18: Alphabetic, marks, decimal digits, connector punctuation and the
    /// two joiners. Used for single_word and by the Whitespace pre-tokenizer.
    /// </summary>
    public static bool IsWord(int codePoint) => Category(codePoint) switch
    {
        <= UnicodeCategory.OtherLetter => true,
        UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark => true,
        UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.ConnectorPunctuation => true,
        // Other_Alphabetic among the symbols: circled and squared Latin letters.
        UnicodeCategory.OtherSymbol => codePoint is (>= 0x24B6 and <= 0x24E9) or (>= 0x1F130 and <= 0x1F149)
            or (>= 0x1F150 and <= 0x1F169) or (>= 0x1F170 and <= 0x1F189),
        UnicodeCategory.Format => codePoint is 0x200C or 0x200D,
        _ => false,
    };
}
