using System.Text;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Server;

/// <summary>What log-probabilities call a token: its text, or its bytes as OpenAI writes them where they are no whole characters.</summary>
internal static class TokenNames
{
    public static string Of(Tokenizer tokenizer, int token)
    {
        string text = tokenizer.Decode([token]);
        if (!text.Contains('\uFFFD'))
        {
            return text;
        }

        // Two halves of a character must not have the same name: they are keys of one object.
        var bytes = new StringBuilder("bytes:");
        foreach (byte value in tokenizer.TokenBytes(token).Span)
        {
            bytes.Append("\\x").Append(value.ToString("x2", System.Globalization.CultureInfo.InvariantCulture));
        }

        return bytes.ToString();
    }
}
