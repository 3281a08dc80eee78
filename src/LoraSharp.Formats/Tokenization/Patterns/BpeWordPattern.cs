using System.Globalization;

namespace LoraSharp.Formats.Tokenization.Patterns;

/// <summary>
/// The pre-tokenizer expressions that nearly all byte-level models share, scanned by hand: GPT-2's and the later family
/// of cl100k, Llama 3 and Qwen. Each is tested against the expression itself, which stays the reference. Every
/// character falls into some match, so there are never gaps.
/// </summary>
internal sealed class BpeWordPattern : TextPattern
{
    /// <summary>GPT-2's expression.</summary>
    public const string Gpt2Expression = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    private const byte Letter = 1;
    private const byte Number = 2;
    private const byte Space = 4;
    private const byte NewLine = 8;
    private static readonly byte[] Kinds = BuildKinds();

    private readonly bool _gpt2;
    private readonly int _digits;

    private BpeWordPattern(bool gpt2, int digits)
    {
        _gpt2 = gpt2;
        _digits = digits;
    }

    /// <summary>The scanner of GPT-2's expression.</summary>
    public static BpeWordPattern Gpt2 { get; } = new(gpt2: true, digits: int.MaxValue);

    /// <summary>The scanner for an expression, or null when it is none of the known ones.</summary>
    public static BpeWordPattern? For(string expression)
    {
        if (expression == Gpt2Expression)
        {
            return Gpt2;
        }

        foreach ((string number, int digits) in new[] { (@"\p{N}{1,3}", 3), (@"\p{N}", 1), (@"\p{N}+", int.MaxValue), (@"\p{N}{1,2}", 2) })
        {
            if (expression == ModernExpression(number))
            {
                return new BpeWordPattern(gpt2: false, digits);
            }
        }

        return null;
    }

    /// <summary>The expression of cl100k (numbers <c>\p{N}{1,3}</c>), Llama 3 (the same) and Qwen (<c>\p{N}</c>).</summary>
    public static string ModernExpression(string number) =>
        @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + number + @"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    public override void FindMatches(string text, int start, int end, List<MatchSpan> output)
    {
        ReadOnlySpan<char> span = text.AsSpan(0, end);
        for (int i = start; i < end;)
        {
            int next = _gpt2 ? NextGpt2(span, i) : NextModern(span, i);
            output.Add(new MatchSpan(i, next, true));
            i = next;
        }
    }

    private static int NextGpt2(ReadOnlySpan<char> text, int i)
    {
        if (text[i] == '\'' && Contraction(text, i + 1, ignoreCase: false) is > 0 and int length)
        {
            return i + 1 + length;
        }

        int first = text[i] == ' ' && i + 1 < text.Length ? i + 1 : i;
        byte kind = Kind(text, first, out int width);
        if ((kind & Space) == 0)
        {
            return Run(text, first + width, (byte)(Letter | Number | Space), kind, int.MaxValue);
        }

        return Whitespace(text, i);
    }

    private int NextModern(ReadOnlySpan<char> text, int i)
    {
        if (text[i] == '\'' && Contraction(text, i + 1, ignoreCase: true) is > 0 and int length)
        {
            return i + 1 + length;
        }

        byte kind = Kind(text, i, out int width);
        if ((kind & Letter) != 0)
        {
            return Run(text, i + width, Letter, Letter, int.MaxValue);
        }

        if ((kind & Number) != 0)
        {
            return Run(text, i + width, Number, Number, _digits - 1);
        }

        // One character that is neither letter, number nor line end may open a word.
        if ((kind & NewLine) == 0 && i + width < text.Length && (Kind(text, i + width, out int letterWidth) & Letter) != 0)
        {
            return Run(text, i + width + letterWidth, Letter, Letter, int.MaxValue);
        }

        int first = text[i] == ' ' && i + 1 < text.Length ? i + 1 : i;
        if (Kind(text, first, out width) == 0)
        {
            int end = Run(text, first + width, Letter | Number | Space, 0, int.MaxValue);
            while (end < text.Length && text[end] is '\r' or '\n')
            {
                end++;
            }

            return end;
        }

        return WhitespaceWithLines(text, i);
    }

    // Continues while the kind, of those in the mask, is the wanted one.
    private static int Run(ReadOnlySpan<char> text, int i, byte mask, byte wanted, int limit)
    {
        while (i < text.Length && limit > 0 && (Kind(text, i, out int width) & mask) == wanted)
        {
            i += width;
            limit--;
        }

        return i;
    }

    // \s+(?!\S)|\s+ : all but the last blank of a run that something follows.
    private static int Whitespace(ReadOnlySpan<char> text, int i)
    {
        int end = i + 1;
        while (end < text.Length && (Kinds[text[end]] & Space) != 0)
        {
            end++;
        }

        return end == text.Length || end == i + 1 ? end : end - 1;
    }

    // \s*[\r\n]+ comes first: a run is cut after its last line end.
    private static int WhitespaceWithLines(ReadOnlySpan<char> text, int i)
    {
        int end = i;
        int lineEnd = -1;
        while (end < text.Length && (Kinds[text[end]] & Space) != 0)
        {
            lineEnd = text[end] is '\r' or '\n' ? end + 1 : lineEnd;
            end++;
        }

        return lineEnd > 0 ? lineEnd : end == text.Length || end == i + 1 ? end : end - 1;
    }

    private static int Contraction(ReadOnlySpan<char> text, int i, bool ignoreCase)
    {
        if (i >= text.Length)
        {
            return 0;
        }

        char first = Fold(text[i], ignoreCase);
        if (first is 's' or 't' or 'm' or 'd')
        {
            return 1;
        }

        char second = i + 1 < text.Length ? Fold(text[i + 1], ignoreCase) : '\0';
        return (first, second) is ('r', 'e') or ('v', 'e') or ('l', 'l') ? 2 : 0;
    }

    // U+017F (long s) is the one character beyond ASCII that case-folds to a letter of the contractions.
    private static char Fold(char value, bool ignoreCase) =>
        !ignoreCase ? value : value is >= 'A' and <= 'Z' ? (char)(value | 0x20) : value == '\u017F' ? 's' : value;

    private static byte Kind(ReadOnlySpan<char> text, int i, out int width)
    {
        char unit = text[i];
        if (!char.IsSurrogate(unit))
        {
            width = 1;
            return Kinds[unit];
        }

        int codePoint = CodePoints.At(text, i, out width);
        return KindOf(codePoint);
    }

    private static byte KindOf(int codePoint)
    {
        UnicodeCategory category = CodePoints.Category(codePoint);
        byte kind = category <= UnicodeCategory.OtherLetter ? Letter
            : category is >= UnicodeCategory.DecimalDigitNumber and <= UnicodeCategory.OtherNumber ? Number
            : CodePoints.IsWhiteSpace(codePoint) ? Space
            : (byte)0;
        return codePoint is '\r' or '\n' ? (byte)(kind | NewLine) : kind;
    }

    private static byte[] BuildKinds()
    {
        byte[] kinds = new byte[0x10000];
        for (int unit = 0; unit < kinds.Length; unit++)
        {
            kinds[unit] = KindOf(unit);
        }

        return kinds;
    }
}
