using System.Buffers;
using System.Globalization;
using System.Text;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Formats.Tokenization.Decoders;

/// <summary>Characters of the byte-level alphabet back to bytes, bytes to text; invalid UTF-8 becomes U+FFFD.</summary>
internal sealed class ByteLevelDecoder : TokenDecoder
{
    public override List<string> Apply(List<string> tokens)
    {
        var bytes = new ArrayBufferWriter<byte>(256);
        foreach (string token in tokens)
        {
            ByteLevelAlphabet.AppendBytes(token, bytes);
        }

        return [Encoding.UTF8.GetString(bytes.WrittenSpan)];
    }

    public override byte[] BytesOf(string token)
    {
        var bytes = new ArrayBufferWriter<byte>(token.Length + 1);
        ByteLevelAlphabet.AppendBytes(token, bytes);
        return bytes.WrittenSpan.ToArray();
    }
}

/// <summary>Runs of tokens such as &lt;0xE2&gt; become text; a run that is no valid UTF-8 becomes one U+FFFD a token.</summary>
internal sealed class ByteFallbackDecoder : TokenDecoder
{
    private static readonly UTF8Encoding Strict = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    public override List<string> Apply(List<string> tokens)
    {
        var output = new List<string>(tokens.Count);
        var pending = new List<byte>();
        foreach (string token in tokens)
        {
            if (ByteOf(token) is { } value)
            {
                pending.Add(value);
                continue;
            }

            Flush(pending, output);
            output.Add(token);
        }

        Flush(pending, output);
        return output;
    }

    public override byte[]? BytesOf(string token) => ByteOf(token) is { } value ? [value] : null;

    /// <summary>The byte of a token such as &lt;0xE2&gt;, or null.</summary>
    public static byte? ByteOf(string token) =>
        token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>'
            && byte.TryParse(token.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out byte value)
            ? value
            : null;

    private static void Flush(List<byte> pending, List<string> output)
    {
        if (pending.Count == 0)
        {
            return;
        }

        try
        {
            output.Add(Strict.GetString([.. pending]));
        }
        catch (DecoderFallbackException)
        {
            output.AddRange(Enumerable.Repeat("\uFFFD", pending.Count));
        }

        pending.Clear();
    }
}

/// <summary>Joins all tokens into one.</summary>
internal sealed class FuseDecoder : TokenDecoder
{
    public override List<string> Apply(List<string> tokens) => [string.Concat(tokens)];
}

/// <summary>Takes up to so many of one character off each token's ends.</summary>
internal sealed class StripDecoder(string content, int start, int stop) : TokenDecoder
{
    public override List<string> Apply(List<string> tokens) => tokens.ConvertAll(Strip);

    private string Strip(string token)
    {
        int from = 0;
        for (int n = 0; n < start && string.CompareOrdinal(token, from, content, 0, content.Length) == 0 && from < token.Length; n++)
        {
            from += content.Length;
        }

        int to = token.Length;
        for (int n = 0; n < stop && to - content.Length >= from && string.CompareOrdinal(token, to - content.Length, content, 0, content.Length) == 0; n++)
        {
            to -= content.Length;
        }

        return token[from..to];
    }
}

/// <summary>Replaces matches of a pattern in each token.</summary>
internal sealed class ReplaceDecoder(TextPattern pattern, string content) : TokenDecoder
{
    public override List<string> Apply(List<string> tokens) => tokens.ConvertAll(Replace);

    public override byte[]? BytesOf(string token) => Encoding.UTF8.GetBytes(Replace(token));

    private string Replace(string token)
    {
        if (pattern is LiteralPattern { Literal.Length: > 0 } literal)
        {
            return token.Replace(literal.Literal, content, StringComparison.Ordinal);
        }

        var builder = new StringBuilder(token.Length);
        foreach (MatchSpan span in pattern.FindMatches(token))
        {
            builder.Append(span.IsMatch ? content : token.AsSpan(span.Start, span.End - span.Start));
        }

        return builder.ToString();
    }
}

/// <summary>SentencePiece's ▁ back to blanks; the first token loses its own.</summary>
internal sealed class MetaspaceDecoder(string replacement, bool dropFirst) : TokenDecoder
{
    public override List<string> Apply(List<string> tokens)
    {
        var output = new List<string>(tokens.Count);
        for (int i = 0; i < tokens.Count; i++)
        {
            output.Add(tokens[i].Replace(replacement, i == 0 && dropFirst ? "" : " ", StringComparison.Ordinal));
        }

        return output;
    }

    public override byte[] BytesOf(string token) => Encoding.UTF8.GetBytes(token.Replace(replacement, " ", StringComparison.Ordinal));
}

/// <summary>Joins word pieces: those without the prefix get a blank in front.</summary>
internal sealed class WordPieceDecoder(string prefix, bool cleanup) : TokenDecoder
{
    public override List<string> Apply(List<string> tokens)
    {
        var output = new List<string>(tokens.Count);
        for (int i = 0; i < tokens.Count; i++)
        {
            string token = i == 0 ? tokens[i]
                : tokens[i].StartsWith(prefix, StringComparison.Ordinal) ? tokens[i][prefix.Length..]
                : " " + tokens[i];
            output.Add(cleanup ? CleanUp(token) : token);
        }

        return output;
    }

    public override byte[] BytesOf(string token) =>
        Encoding.UTF8.GetBytes(token.StartsWith(prefix, StringComparison.Ordinal) ? token[prefix.Length..] : " " + token);

    /// <summary>Takes the blanks out that word pieces leave before punctuation and English contractions.</summary>
    public static string CleanUp(string text)
    {
        foreach ((string from, string to) in new[]
        {
            (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
            (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
        })
        {
            text = text.Replace(from, to, StringComparison.Ordinal);
        }

        return text;
    }
}

/// <summary>Old BPE with an end-of-word suffix: the suffix is a blank, except at the end.</summary>
internal sealed class BpeDecoder(string suffix) : TokenDecoder
{
    public override List<string> Apply(List<string> tokens)
    {
        var output = new List<string>(tokens.Count);
        for (int i = 0; i < tokens.Count; i++)
        {
            output.Add(suffix.Length == 0 ? tokens[i] : tokens[i].Replace(suffix, i == tokens.Count - 1 ? "" : " ", StringComparison.Ordinal));
        }

        return output;
    }
}

/// <summary>Connectionist temporal classification: repeats fall together, padding vanishes.</summary>
internal sealed class CtcDecoder(string pad, string wordDelimiter, bool cleanup) : TokenDecoder
{
    public override List<string> Apply(List<string> tokens)
    {
        var output = new List<string>(tokens.Count);
        for (int i = 0; i < tokens.Count; i++)
        {
            if (i > 0 && tokens[i] == tokens[i - 1])
            {
                continue;
            }

            string token = pad.Length == 0 ? tokens[i] : tokens[i].Replace(pad, "", StringComparison.Ordinal);
            if (cleanup)
            {
                token = WordPieceDecoder.CleanUp(token);
                token = wordDelimiter.Length == 0 ? token : token.Replace(wordDelimiter, " ", StringComparison.Ordinal);
            }

            if (token.Length > 0)
            {
                output.Add(token);
            }
        }

        return output;
    }
}

/// <summary>One decoder after the other.</summary>
internal sealed class SequenceDecoder(IReadOnlyList<TokenDecoder> steps) : TokenDecoder
{
    public override List<string> Apply(List<string> tokens)
    {
        foreach (TokenDecoder step in steps)
        {
            tokens = step.Apply(tokens);
        }

        return tokens;
    }

    public override byte[]? BytesOf(string token)
    {
        byte[]? bytes = null;
        foreach (TokenDecoder step in steps)
        {
            bytes = step.BytesOf(token) ?? bytes;
            if (step is ByteFallbackDecoder && ByteFallbackDecoder.ByteOf(token) is not null)
            {
                return bytes;
            }
        }

        return bytes;
    }
}
