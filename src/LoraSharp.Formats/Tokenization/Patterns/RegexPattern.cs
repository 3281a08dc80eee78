using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Tokenization.Patterns;

/// <summary>
/// An expression in Oniguruma's syntax, run by .NET's engine. There are two translations: text without surrogates, the
/// usual case, takes the small one; in the other every class also has its members beyond U+FFFF as pairs.
/// </summary>
internal sealed class RegexPattern : TextPattern
{
    // Compiling takes tens of milliseconds and pays for itself on long inputs only.
    private const long CompileAfter = 1 << 18;

    private readonly string _expression;
    private readonly Lazy<Regex> _plain;
    private readonly Lazy<Regex> _astral;
    private readonly Lazy<Regex> _compiled;
    private long _seen;

    /// <exception cref="MalformedFileException">The expression is malformed or uses what is not supported.</exception>
    public RegexPattern(string expression, string source)
    {
        _expression = expression;
        string plain;
        try
        {
            plain = OnigurumaTranslator.Translate(expression, astral: false);
            _ = new Regex(plain, RegexOptions.CultureInvariant);
        }
        catch (Exception error) when (error is FormatException or ArgumentException)
        {
            throw new MalformedFileException(source, $"the expression {expression} is not understood: {error.Message}", error);
        }

        _plain = new(() => new Regex(plain, RegexOptions.CultureInvariant));
        _compiled = new(() => new Regex(plain, RegexOptions.CultureInvariant | RegexOptions.Compiled));
        _astral = new(() => new Regex(OnigurumaTranslator.Translate(_expression, astral: true), RegexOptions.CultureInvariant));
    }

    public override void FindMatches(string text, int start, int end, List<MatchSpan> output)
    {
        ReadOnlySpan<char> span = text.AsSpan(start, end - start);
        int previous = start;
        int lastEnd = -1;
        foreach (ValueMatch match in Choose(span).EnumerateMatches(span))
        {
            // The library does not take an empty match right after a match, nor within a character.
            if (match.Length == 0 && (match.Index == lastEnd || CodePoints.SplitsPair(span, match.Index)))
            {
                continue;
            }

            lastEnd = match.Index + match.Length;
            AddMatch(output, ref previous, start + match.Index, start + lastEnd);
        }

        if (previous != end)
        {
            output.Add(new MatchSpan(previous, end, false));
        }
    }

    private Regex Choose(ReadOnlySpan<char> text)
    {
        if (text.ContainsAnyInRange('\uD800', '\uDFFF'))
        {
            return _astral.Value;
        }

        return Interlocked.Add(ref _seen, text.Length) > CompileAfter ? _compiled.Value : _plain.Value;
    }
}
