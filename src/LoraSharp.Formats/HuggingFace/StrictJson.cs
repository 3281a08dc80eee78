using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Unicode;

namespace LoraSharp.Formats.HuggingFace;

/// <summary>
/// JSON from outside. Nodes are lazy: a name given twice or a text that is no Unicode (an escaped half of a surrogate
/// pair) would come out only where it is first looked at, as another exception; here everything is checked at once.
/// </summary>
public static class StrictJson
{
    private static readonly JsonDocumentOptions Options = new() { AllowDuplicateProperties = false };

    /// <summary>Parses UTF-8, with or without a byte order mark.</summary>
    /// <exception cref="JsonException">It is no JSON, gives a name twice in one object, or holds a text that is no Unicode.</exception>
    public static JsonNode? Parse(ReadOnlySpan<byte> utf8)
    {
        if (utf8.StartsWith((ReadOnlySpan<byte>)[0xEF, 0xBB, 0xBF]))
        {
            utf8 = utf8[3..];
        }

        if (!Utf8.IsValid(utf8))
        {
            throw new JsonException("the text is not UTF-8.");
        }

        JsonNode? node = JsonNode.Parse(utf8, documentOptions: Options);
        CheckTexts(utf8);
        return node;
    }

    /// <summary>Parses text.</summary>
    /// <exception cref="JsonException">It is no JSON, gives a name twice in one object, or holds a text that is no Unicode.</exception>
    public static JsonNode? Parse(string text)
    {
        JsonNode? node = JsonNode.Parse(text, documentOptions: Options);
        if (text.Contains('\\', StringComparison.Ordinal))
        {
            CheckTexts(Encoding.UTF8.GetBytes(text));
        }

        return node;
    }

    private static void CheckTexts(ReadOnlySpan<byte> utf8)
    {
        var reader = new Utf8JsonReader(utf8);
        while (reader.Read())
        {
            if (!reader.ValueIsEscaped)
            {
                continue;
            }

            try
            {
                _ = reader.GetString();
            }
            catch (InvalidOperationException error)
            {
                throw new JsonException($"the text at byte {reader.TokenStartIndex} is no Unicode: {error.Message}", error);
            }
        }
    }
}
