using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization.Models;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// Reads <c>tokenizer.json</c>. The small components become JSON nodes; vocabulary and merges, nearly all of the file,
/// are read token by token.
/// </summary>
internal static class TokenizerJson
{
    /// <summary>Reads the parts.</summary>
    /// <param name="utf8">The file.</param>
    /// <param name="source">What it is called in errors.</param>
    /// <exception cref="MalformedFileException">It is no JSON or no tokenizer this library knows.</exception>
    public static TokenizerParts Read(ReadOnlySpan<byte> utf8, string source)
    {
        if (utf8.StartsWith((ReadOnlySpan<byte>)[0xEF, 0xBB, 0xBF]))
        {
            utf8 = utf8[3..];
        }

        try
        {
            return ReadParts(utf8, source);
        }
        catch (Exception error) when (error is JsonException or FormatException or InvalidOperationException or KeyNotFoundException or OverflowException or ArgumentException)
        {
            throw new MalformedFileException(source, $"is not a valid tokenizer.json: {error.Message}", error);
        }
    }

    private static TokenizerParts ReadParts(ReadOnlySpan<byte> utf8, string source)
    {
        var reader = new Utf8JsonReader(utf8, new JsonReaderOptions { MaxDepth = 64 });
        if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject)
        {
            throw new FormatException("expected a JSON object");
        }

        TokenModel? model = null;
        JsonNode? added = null, normalizer = null, preTokenizer = null, postProcessor = null, decoder = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            reader.Read();
            switch (name)
            {
                case "model":
                    model = new ModelReader().Read(utf8, ref reader);
                    break;
                case "added_tokens":
                    added = JsonNode.Parse(ref reader);
                    break;
                case "normalizer":
                    normalizer = JsonNode.Parse(ref reader);
                    break;
                case "pre_tokenizer":
                    preTokenizer = JsonNode.Parse(ref reader);
                    break;
                case "post_processor":
                    postProcessor = JsonNode.Parse(ref reader);
                    break;
                case "decoder":
                    decoder = JsonNode.Parse(ref reader);
                    break;
                default:
                    // "truncation" and "padding" are left to the caller, as transformers does: a model's limit is no reason to cut a training row.
                    reader.Skip();
                    break;
            }
        }

        if (model is null)
        {
            throw new FormatException("it has no \"model\"");
        }

        return new TokenizerParts
        {
            Model = model,
            AddedTokens = ReadAddedTokens(added),
            Normalizer = ComponentReader.Normalizer(normalizer, source),
            PreTokenizer = ComponentReader.PreTokenizer(preTokenizer, source),
            PostProcessor = ComponentReader.PostProcessor(postProcessor, source),
            Decoder = ComponentReader.Decoder(decoder, source),
        };
    }

    private static List<AddedToken> ReadAddedTokens(JsonNode? node)
    {
        var tokens = new List<AddedToken>();
        foreach (JsonNode? entry in node?.AsArray() ?? [])
        {
            if (entry is not JsonObject token || token["content"] is not JsonValue text || !text.TryGetValue(out string? content)
                || token["id"] is not JsonValue number || !number.TryGetValue(out int id) || id < 0)
            {
                throw new FormatException($"entry {tokens.Count} of \"added_tokens\" is {entry?.ToJsonString() ?? "null"}; expected an object with \"id\" and \"content\"");
            }

            bool special = Flag(token, "special", false);
            tokens.Add(new AddedToken(id, content)
            {
                Special = special,
                Normalized = Flag(token, "normalized", !special),
                SingleWord = Flag(token, "single_word", false),
                StripLeft = Flag(token, "lstrip", false),
                StripRight = Flag(token, "rstrip", false),
            });
        }

        return tokens;
    }

    private static bool Flag(JsonObject token, string name, bool fallback) => token[name] is { } value ? (bool)value : fallback;
}
