using System.Buffers;
using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>What Python's <c>str</c> methods do, on .NET strings.</summary>
internal static class PythonStrings
{
    /// <summary>Python's idea of whitespace: Unicode's, and the four information separators.</summary>
    public const string Whitespace = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000";

    private static readonly SearchValues<char> WhitespaceSet = SearchValues.Create(Whitespace);

    public static bool IsWhitespace(char c) => WhitespaceSet.Contains(c);

    public static string Strip(string text, string? characters) => StripStart(StripEnd(text, characters), characters);

    public static string StripEnd(string text, string? characters = null)
    {
        if (characters is not null && CodePoints.HasPairs(characters))
        {
            HashSet<string> set = [.. CodePoints.Split(characters)];
            List<string> parts = [.. CodePoints.Split(text)];
            int end = parts.Count;
            while (end > 0 && set.Contains(parts[end - 1]))
            {
                end--;
            }

            return string.Concat(parts.Take(end));
        }

        return text.AsSpan().TrimEnd(characters ?? Whitespace).Length is int length && length == text.Length ? text : text[..length];
    }

    public static string StripStart(string text, string? characters = null)
    {
        if (characters is not null && CodePoints.HasPairs(characters))
        {
            HashSet<string> set = [.. CodePoints.Split(characters)];
            return string.Concat(CodePoints.Split(text).SkipWhile(set.Contains));
        }

        return text.AsSpan().TrimStart(characters ?? Whitespace).Length is int length && length == text.Length ? text : text[^length..];
    }

    public static List<object?> Split(string text, string? separator, long most, bool fromEnd)
    {
        if (separator is { Length: 0 })
        {
            throw PythonError.Value("empty separator");
        }

        var parts = new List<object?>();
        most = most < 0 ? long.MaxValue : most;
        if (separator is null)
        {
            return fromEnd ? SplitWhitespaceFromEnd(text, most) : SplitWhitespace(text, most);
        }

        if (!fromEnd)
        {
            int start = 0;
            for (int at; parts.Count < most && (at = text.IndexOf(separator, start, StringComparison.Ordinal)) >= 0; start = at + separator.Length)
            {
                parts.Add(text[start..at]);
            }

            parts.Add(text[start..]);
            return parts;
        }

        int end = text.Length;
        for (int at; parts.Count < most && (at = LastIndexOf(text, separator, end)) >= 0; end = at)
        {
            parts.Add(text[(at + separator.Length)..end]);
        }

        parts.Add(text[..end]);
        parts.Reverse();
        return parts;
    }

    private static int LastIndexOf(string text, string part, int end) => text.AsSpan(0, end).LastIndexOf(part, StringComparison.Ordinal);

    private static List<object?> SplitWhitespace(string text, long most)
    {
        var parts = new List<object?>();
        int at = 0;
        while (true)
        {
            while (at < text.Length && IsWhitespace(text[at]))
            {
                at++;
            }

            if (at == text.Length)
            {
                return parts;
            }

            if (parts.Count >= most)
            {
                parts.Add(text[at..]);
                return parts;
            }

            int start = at;
            while (at < text.Length && !IsWhitespace(text[at]))
            {
                at++;
            }

            parts.Add(text[start..at]);
        }
    }

    private static List<object?> SplitWhitespaceFromEnd(string text, long most)
    {
        var parts = new List<object?>();
        int at = text.Length;
        while (true)
        {
            while (at > 0 && IsWhitespace(text[at - 1]))
            {
                at--;
            }

            if (at == 0)
            {
                break;
            }

            if (parts.Count >= most)
            {
                parts.Add(text[..at]);
                break;
            }

            int end = at;
            while (at > 0 && !IsWhitespace(text[at - 1]))
            {
                at--;
            }

            parts.Add(text[at..end]);
        }

        parts.Reverse();
        return parts;
    }

    public static List<string> SplitLines(string text, bool keepEnds = false)
    {
        var lines = new List<string>();
        int start = 0;
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] is '\n' or '\r' or '\v' or '\f' or '\x1c' or '\x1d' or '\x1e' or '\x85' or '\u2028' or '\u2029')
            {
                int end = text[i] == '\r' && i + 1 < text.Length && text[i + 1] == '\n' ? i + 2 : i + 1;
                lines.Add(text[start..(keepEnds ? end : i)]);
                start = end;
                i = end - 1;
            }
        }

        if (start < text.Length)
        {
            lines.Add(text[start..]);
        }

        return lines;
    }

    public static string Replace(string text, string old, string replacement, long count, Budget budget)
    {
        if (count < 0)
        {
            count = long.MaxValue;
        }

        if (old.Length == 0)
        {
            budget.Characters(text.Length + (Math.Min(count, text.Length + 1L) * replacement.Length));
            var spread = new StringBuilder();
            foreach (string part in CodePoints.Split(text))
            {
                spread.Append(count-- > 0 ? replacement : string.Empty).Append(part);
            }

            return spread.Append(count > 0 ? replacement : string.Empty).ToString();
        }

        var result = new StringBuilder();
        int start = 0;
        for (int at; count > 0 && (at = text.IndexOf(old, start, StringComparison.Ordinal)) >= 0; start = at + old.Length, count--)
        {
            budget.Grow(result.Length, (long)at - start + replacement.Length);
            result.Append(text, start, at - start).Append(replacement);
        }

        return start == 0 ? text : result.Append(text, start, text.Length - start).ToString();
    }

    public static long CountOf(string text, string part)
    {
        if (part.Length == 0)
        {
            return CodePoints.Count(text) + 1;
        }

        long count = 0;
        for (int at = text.IndexOf(part, StringComparison.Ordinal); at >= 0; at = text.IndexOf(part, at + part.Length, StringComparison.Ordinal))
        {
            count++;
        }

        return count;
    }

    /// <summary>Alignment as ljust ('&lt;'), rjust ('&gt;') and center ('^') do it.</summary>
    public static string Pad(string text, long width, string fill, char align, Budget budget)
    {
        long missing = width - CodePoints.Count(text);
        if (missing <= 0)
        {
            return text;
        }

        budget.Characters(width * fill.Length);
        // str.center gives the odd blank to the left where the width is odd.
        long left = align == '<' ? 0 : align == '>' ? missing : (missing / 2) + (missing & width & 1);
        return Times(fill, left) + text + Times(fill, missing - left);
    }

    private static string Times(string text, long count) => new StringBuilder().Insert(0, text, (int)count).ToString();

    public static string ZeroFill(string text, long width, Budget budget)
    {
        bool signed = text.Length > 0 && text[0] is '+' or '-';
        return signed ? text[0] + Pad(text[1..], width - 1, "0", '>', budget) : Pad(text, width, "0", '>', budget);
    }

    public static string ExpandTabs(string text, long size, Budget budget)
    {
        var result = new StringBuilder();
        long column = 0;
        foreach (string part in CodePoints.Split(text))
        {
            if (part == "\t")
            {
                long blanks = size > 0 ? size - (column % size) : 0;
                budget.Grow(result.Length, blanks);
                result.Append(' ', (int)blanks);
                column += blanks;
            }
            else
            {
                result.Append(part);
                column = part is "\n" or "\r" ? 0 : column + 1;
            }
        }

        return result.ToString();
    }

    /// <summary>isdigit and its kind: true for a text that is not empty and whose every character is so.</summary>
    public static bool All(string text, Func<Rune, bool> test)
    {
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (!test(rune))
            {
                return false;
            }
        }

        return text.Length > 0;
    }

    public static bool IsAlphabetic(Rune rune) => Rune.IsLetter(rune);

    public static bool IsDecimal(Rune rune) => Rune.GetUnicodeCategory(rune) == UnicodeCategory.DecimalDigitNumber;

    public static bool IsDigit(Rune rune) => CharUnicodeInfo.GetDigitValue(rune.ToString(), 0) >= 0;

    public static bool IsNumeric(Rune rune) => CharUnicodeInfo.GetNumericValue(rune.ToString(), 0) >= 0;

    public static bool IsIdentifier(string text) => text.Length > 0 && (text[0] == '_' || char.IsLetter(text[0])) && text.All(c => c == '_' || char.IsLetterOrDigit(c));
}
