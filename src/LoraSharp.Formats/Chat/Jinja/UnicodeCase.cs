using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>
/// Upper, lower and title case as Python has them: the full mappings of Unicode (SpecialCasing.txt, the unconditional
/// ones), where .NET has only those of one character to one.
/// </summary>
internal static class UnicodeCase
{
    // A character and what it becomes, separated by blanks.
    private const string SpecialUpper =
        "\u00DFSS \u0149\u02BCN \u01F0J\u030C \u0390\u0399\u0308\u0301 \u03B0\u03A5\u0308\u0301 \u0587\u0535\u0552 \u1E96H\u0331 "
        + "\u1E97T\u0308 \u1E98W\u030A \u1E99Y\u030A \u1E9AA\u02BE \u1F50\u03A5\u0313 \u1F52\u03A5\u0313\u0300 \u1F54\u03A5\u0313\u0301 "
        + "\u1F56\u03A5\u0313\u0342 \u1F80\u1F08\u0399 \u1F81\u1F09\u0399 \u1F82\u1F0A\u0399 \u1F83\u1F0B\u0399 \u1F84\u1F0C\u0399 "
        + "\u1F85\u1F0D\u0399 \u1F86\u1F0E\u0399 \u1F87\u1F0F\u0399 \u1F88\u1F08\u0399 \u1F89\u1F09\u0399 \u1F8A\u1F0A\u0399 "
        + "\u1F8B\u1F0B\u0399 \u1F8C\u1F0C\u0399 \u1F8D\u1F0D\u0399 \u1F8E\u1F0E\u0399 \u1F8F\u1F0F\u0399 \u1F90\u1F28\u0399 "
        + "\u1F91\u1F29\u0399 \u1F92\u1F2A\u0399 \u1F93\u1F2B\u0399 \u1F94\u1F2C\u0399 \u1F95\u1F2D\u0399 \u1F96\u1F2E\u0399 "
        + "\u1F97\u1F2F\u0399 \u1F98\u1F28\u0399 \u1F99\u1F29\u0399 \u1F9A\u1F2A\u0399 \u1F9B\u1F2B\u0399 \u1F9C\u1F2C\u0399 "
        + "\u1F9D\u1F2D\u0399 \u1F9E\u1F2E\u0399 \u1F9F\u1F2F\u0399 \u1FA0\u1F68\u0399 \u1FA1\u1F69\u0399 \u1FA2\u1F6A\u0399 "
        + "\u1FA3\u1F6B\u0399 \u1FA4\u1F6C\u0399 \u1FA5\u1F6D\u0399 \u1FA6\u1F6E\u0399 \u1FA7\u1F6F\u0399 \u1FA8\u1F68\u0399 "
        + "\u1FA9\u1F69\u0399 \u1FAA\u1F6A\u0399 \u1FAB\u1F6B\u0399 \u1FAC\u1F6C\u0399 \u1FAD\u1F6D\u0399 \u1FAE\u1F6E\u0399 "
        + "\u1FAF\u1F6F\u0399 \u1FB2\u1FBA\u0399 \u1FB3\u0391\u0399 \u1FB4\u0386\u0399 \u1FB6\u0391\u0342 \u1FB7\u0391\u0342\u0399 "
        + "\u1FBC\u0391\u0399 \u1FC2\u1FCA\u0399 \u1FC3\u0397\u0399 \u1FC4\u0389\u0399 \u1FC6\u0397\u0342 \u1FC7\u0397\u0342\u0399 "
        + "\u1FCC\u0397\u0399 \u1FD2\u0399\u0308\u0300 \u1FD3\u0399\u0308\u0301 \u1FD6\u0399\u0342 \u1FD7\u0399\u0308\u0342 "
        + "\u1FE2\u03A5\u0308\u0300 \u1FE3\u03A5\u0308\u0301 \u1FE4\u03A1\u0313 \u1FE6\u03A5\u0342 \u1FE7\u03A5\u0308\u0342 "
        + "\u1FF2\u1FFA\u0399 \u1FF3\u03A9\u0399 \u1FF4\u038F\u0399 \u1FF6\u03A9\u0342 \u1FF7\u03A9\u0342\u0399 \u1FFC\u03A9\u0399 \uFB00FF "
        + "\uFB01FI \uFB02FL \uFB03FFI \uFB04FFL \uFB05ST \uFB06ST \uFB13\u0544\u0546 \uFB14\u0544\u0535 \uFB15\u0544\u053B "
        + "\uFB16\u054E\u0546 \uFB17\u0544\u053D";

    private const string SpecialTitle =
        "\u00DFSs \u01C4\u01C5 \u01C5\u01C5 \u01C6\u01C5 \u01C7\u01C8 \u01C8\u01C8 \u01C9\u01C8 \u01CA\u01CB \u01CB\u01CB \u01CC\u01CB "
        + "\u01F1\u01F2 \u01F2\u01F2 \u01F3\u01F2 \u0587\u0535\u0582 \u10D0\u10D0 \u10D1\u10D1 \u10D2\u10D2 \u10D3\u10D3 \u10D4\u10D4 "
        + "\u10D5\u10D5 \u10D6\u10D6 \u10D7\u10D7 \u10D8\u10D8 \u10D9\u10D9 \u10DA\u10DA \u10DB\u10DB \u10DC\u10DC \u10DD\u10DD \u10DE\u10DE "
        + "\u10DF\u10DF \u10E0\u10E0 \u10E1\u10E1 \u10E2\u10E2 \u10E3\u10E3 \u10E4\u10E4 \u10E5\u10E5 \u10E6\u10E6 \u10E7\u10E7 \u10E8\u10E8 "
        + "\u10E9\u10E9 \u10EA\u10EA \u10EB\u10EB \u10EC\u10EC \u10ED\u10ED \u10EE\u10EE \u10EF\u10EF \u10F0\u10F0 \u10F1\u10F1 \u10F2\u10F2 "
        + "\u10F3\u10F3 \u10F4\u10F4 \u10F5\u10F5 \u10F6\u10F6 \u10F7\u10F7 \u10F8\u10F8 \u10F9\u10F9 \u10FA\u10FA \u10FD\u10FD \u10FE\u10FE "
        + "\u10FF\u10FF \u1F80\u1F88 \u1F81\u1F89 \u1F82\u1F8A \u1F83\u1F8B \u1F84\u1F8C \u1F85\u1F8D \u1F86\u1F8E \u1F87\u1F8F \u1F88\u1F88 "
        + "\u1F89\u1F89 \u1F8A\u1F8A \u1F8B\u1F8B \u1F8C\u1F8C \u1F8D\u1F8D \u1F8E\u1F8E \u1F8F\u1F8F \u1F90\u1F98 \u1F91\u1F99 \u1F92\u1F9A "
        + "\u1F93\u1F9B \u1F94\u1F9C \u1F95\u1F9D \u1F96\u1F9E \u1F97\u1F9F \u1F98\u1F98 \u1F99\u1F99 \u1F9A\u1F9A \u1F9B\u1F9B \u1F9C\u1F9C "
        + "\u1F9D\u1F9D \u1F9E\u1F9E \u1F9F\u1F9F \u1FA0\u1FA8 \u1FA1\u1FA9 \u1FA2\u1FAA \u1FA3\u1FAB \u1FA4\u1FAC \u1FA5\u1FAD \u1FA6\u1FAE "
        + "\u1FA7\u1FAF \u1FA8\u1FA8 \u1FA9\u1FA9 \u1FAA\u1FAA \u1FAB\u1FAB \u1FAC\u1FAC \u1FAD\u1FAD \u1FAE\u1FAE \u1FAF\u1FAF "
        + "\u1FB2\u1FBA\u0345 \u1FB3\u1FBC \u1FB4\u0386\u0345 \u1FB7\u0391\u0342\u0345 \u1FBC\u1FBC \u1FC2\u1FCA\u0345 \u1FC3\u1FCC "
        + "\u1FC4\u0389\u0345 \u1FC7\u0397\u0342\u0345 \u1FCC\u1FCC \u1FF2\u1FFA\u0345 \u1FF3\u1FFC \u1FF4\u038F\u0345 "
        + "\u1FF7\u03A9\u0342\u0345 \u1FFC\u1FFC \uFB00Ff \uFB01Fi \uFB02Fl \uFB03Ffi \uFB04Ffl \uFB05St \uFB06St \uFB13\u0544\u0576 "
        + "\uFB14\u0544\u0565 \uFB15\u0544\u056B \uFB16\u054E\u0576 \uFB17\u0544\u056D";

    private static readonly Dictionary<char, string> UpperTable = Table(SpecialUpper);

    private static readonly Dictionary<char, string> TitleTable = Table(SpecialTitle);

    public static string Upper(string text) => Map(text.ToUpperInvariant(), text, UpperTable);

    public static string Lower(string text)
    {
        string lower = text.ToLowerInvariant();
        if (text.AsSpan().IndexOfAny('\u0130', '\u03A3') < 0)
        {
            return lower;
        }

        var result = new StringBuilder(text.Length);
        for (int i = 0; i < text.Length; i++)
        {
            result.Append(text[i] == '\u0130' ? "i\u0307" : text[i] == '\u03A3' && IsFinal(text, i) ? "\u03C2" : lower[i].ToString());
        }

        return result.ToString();
    }

    /// <summary>The first character in title case, the others in lower case.</summary>
    public static string Capitalize(string text) => text.Length == 0 ? text : Words(text, once: true);

    /// <summary>str.title: every letter behind something without case starts a word.</summary>
    public static string Title(string text) => Words(text, once: false);

    public static bool IsCased(Rune rune) => Rune.GetUnicodeCategory(rune) is UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter or UnicodeCategory.TitlecaseLetter;

    /// <summary>str.islower and str.isupper.</summary>
    public static bool IsAll(string text, UnicodeCategory wanted)
    {
        bool found = false;
        foreach (Rune rune in text.EnumerateRunes())
        {
            bool match = Rune.GetUnicodeCategory(rune) == wanted;
            if (!match && IsCased(rune))
            {
                return false;
            }

            found |= match;
        }

        return found;
    }

    /// <summary>str.istitle.</summary>
    public static bool IsTitle(string text)
    {
        bool inside = false;
        bool found = false;
        foreach (Rune rune in text.EnumerateRunes())
        {
            UnicodeCategory category = Rune.GetUnicodeCategory(rune);
            bool starts = category is UnicodeCategory.UppercaseLetter or UnicodeCategory.TitlecaseLetter;
            if ((starts && inside) || (category == UnicodeCategory.LowercaseLetter && !inside))
            {
                return false;
            }

            inside = starts || category == UnicodeCategory.LowercaseLetter;
            found |= inside;
        }

        return found;
    }

    public static string SwapCase(string text)
    {
        var result = new StringBuilder(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            result.Append(Rune.GetUnicodeCategory(rune) == UnicodeCategory.UppercaseLetter ? Lower(rune.ToString()) : Upper(rune.ToString()));
        }

        return result.ToString();
    }

    private static string Words(string text, bool once)
    {
        string lower = Lower(text);
        if (lower.Length != text.Length)
        {
            lower = text.ToLowerInvariant();
        }

        var result = new StringBuilder(text.Length);
        bool inside = false;
        for (int i = 0; i < text.Length; i++)
        {
            int length = char.IsHighSurrogate(text[i]) && i + 1 < text.Length ? 2 : 1;
            string here = text.Substring(i, length);
            result.Append(inside ? lower.Substring(i, length) : Map(here.ToUpperInvariant(), here, TitleTable));
            inside = once || (Rune.TryGetRuneAt(text, i, out Rune rune) && IsCased(rune));
            i += length - 1;
        }

        return result.ToString();
    }

    // Sigma ends a word where a letter stands before it and none behind.
    private static bool IsFinal(string text, int at)
    {
        int before = at - 1;
        while (before >= 0 && IsIgnored(text[before]))
        {
            before--;
        }

        int after = at + 1;
        while (after < text.Length && IsIgnored(text[after]))
        {
            after++;
        }

        return before >= 0 && char.IsLetter(text[before]) && !(after < text.Length && char.IsLetter(text[after]));
    }

    private static bool IsIgnored(char c) => c is '\'' or '.' or ':' or '\u2019' or '\u00B7' || char.GetUnicodeCategory(c) is UnicodeCategory.NonSpacingMark or UnicodeCategory.Format or UnicodeCategory.ModifierLetter;

    private static string Map(string simple, string text, Dictionary<char, string> table)
    {
        StringBuilder? result = null;
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] > '\x7f' && table.TryGetValue(text[i], out string? special))
            {
                (result ??= new StringBuilder(simple[..i])).Append(special);
            }
            else
            {
                result?.Append(simple[i]);
            }
        }

        return result?.ToString() ?? simple;
    }

    private static Dictionary<char, string> Table(string entries) => entries.Split(' ').ToDictionary(entry => entry[0], entry => entry[1..]);
}
