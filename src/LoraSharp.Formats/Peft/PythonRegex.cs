using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Peft;

/// <summary>
/// Python's <c>re.fullmatch</c> and <c>re.match</c> for the expressions that adapter configurations hold. They come out
/// of files, so a pathological one must not hang: a match takes a second at most.
/// </summary>
internal static class PythonRegex
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(1);

    /// <summary>The whole of <paramref name="text"/> matches.</summary>
    public static bool FullMatch(string pattern, string text) => Run($@"\A(?:{Translate(pattern)})\z", text, pattern).Success;

    /// <summary>A match that starts at the beginning of <paramref name="text"/>.</summary>
    public static Match Match(string pattern, string text) => Run($@"\A(?:{Translate(pattern)})", text, pattern);

    private static Match Run(string translated, string text, string original)
    {
        try
        {
            return Regex.Match(text, translated, RegexOptions.CultureInvariant, Patience);
        }
        catch (RegexMatchTimeoutException error)
        {
            throw new LoraSharpException($"The pattern '{original}' takes more than {Patience.TotalSeconds} s on '{text}'. Write it with fewer nested repetitions.", error);
        }
        catch (ArgumentException error)
        {
            throw new LoraSharpException($"The pattern '{original}' is not a regular expression: {error.Message}", error);
        }
    }

    // Named groups are the one difference that occurs in practice.
    private static string Translate(string pattern) => pattern.Replace("(?P<", "(?<", StringComparison.Ordinal);
}
