using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>What the HTML filters do; no chat template needs more of HTML than this.</summary>
internal static partial class Html
{
    public static Markup Escape(object? value) => value as Markup ?? new Markup(PythonText.Str(value)
        .Replace("&", "&amp;", StringComparison.Ordinal)
        .Replace(">", "&gt;", StringComparison.Ordinal)
        .Replace("<", "&lt;", StringComparison.Ordinal)
        .Replace("'", "&#39;", StringComparison.Ordinal)
        .Replace("\"", "&#34;", StringComparison.Ordinal));

    public static string StripTags(string text)
    {
        string bare = Tags().Replace(Comments().Replace(text, string.Empty), string.Empty);
        return System.Net.WebUtility.HtmlDecode(string.Join(' ', PythonStrings.Split(bare, null, -1, fromEnd: false)));
    }

    /// <summary>Percent-encodes as Python's <c>urllib.parse.quote</c>.</summary>
    public static string Quote(string text, bool forQuery)
    {
        string quoted = string.Concat(System.Text.Encoding.UTF8.GetBytes(text).Select(b => char.IsAsciiLetterOrDigit((char)b) || b is (byte)'_' or (byte)'.' or (byte)'-' or (byte)'~' || (b == '/' && !forQuery)
            ? ((char)b).ToString()
            : $"%{b:X2}"));
        return forQuery ? quoted.Replace("%20", "+", StringComparison.Ordinal) : quoted;
    }

    [GeneratedRegex("<!--.*?-->", RegexOptions.Singleline)]
    private static partial Regex Comments();

    [GeneratedRegex("<.*?>", RegexOptions.Singleline)]
    private static partial Regex Tags();
}
