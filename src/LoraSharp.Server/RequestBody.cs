using System.Buffers;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Unicode;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary>
/// A request's JSON object, read with errors that name the field. It is checked whole when it comes: UTF-8, depth, no key
/// twice, no half of a surrogate pair; lists are counted before anything is made of them.
/// </summary>
internal sealed class RequestBody
{
    private const int Deepest = 64;
    private readonly JsonElement _root;

    private RequestBody(JsonElement root) => _root = root;

    public static async Task<RequestBody> ReadAsync(HttpContext context)
    {
        if (!context.Request.HasJsonContentType())
        {
            throw new ApiError(StatusCodes.Status415UnsupportedMediaType, $"Expected Content-Type: application/json, found '{ApiError.Shorten(context.Request.ContentType ?? "none")}'.", null, "unsupported_media_type");
        }

        var bytes = new ArrayBufferWriter<byte>();
        while (true)
        {
            int read = await context.Request.Body.ReadAsync(bytes.GetMemory(16 << 10), context.RequestAborted).ConfigureAwait(false);
            if (read == 0)
            {
                return Parse(bytes.WrittenMemory);
            }

            bytes.Advance(read);
        }
    }

    public static RequestBody Parse(ReadOnlyMemory<byte> json)
    {
        if (!Utf8.IsValid(json.Span))
        {
            throw new ApiError(StatusCodes.Status400BadRequest, "The request's body is not valid UTF-8.", null, "invalid_utf8");
        }

        try
        {
            // Not disposed: elements live as long as the request, and the document rents nothing when it owns its text.
            JsonElement root = JsonElement.Parse(json.Span, new JsonDocumentOptions { MaxDepth = Deepest, AllowDuplicateProperties = false });
            CheckTexts(root);
            return root.ValueKind == JsonValueKind.Object ? new RequestBody(root) : throw new ApiError(StatusCodes.Status400BadRequest, $"Expected a JSON object as the request's body, found {Describe(root)}.", null, "invalid_json");
        }
        catch (JsonException error)
        {
            throw new ApiError(StatusCodes.Status400BadRequest, $"The request's body is not valid JSON: {error.Message}", null, "invalid_json");
        }
        catch (InvalidOperationException)
        {
            throw new ApiError(StatusCodes.Status400BadRequest, "A text of the request has half of a surrogate pair (\\ud800 to \\udfff alone).", null, "invalid_utf8");
        }
    }

    /// <summary>The field; null where it is missing or null.</summary>
    public JsonElement? Value(string name) => _root.TryGetProperty(name, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? value : null;

    public bool Has(string name) => Value(name) is not null;

    public string? Text(string name) => Value(name) is not { } value ? null : value.ValueKind == JsonValueKind.String ? value.GetString() : throw Wrong(name, "a string", value);

    public bool Flag(string name) => Value(name) is { } value && value.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Wrong(name, "true or false", value),
    };

    public double? Number(string name, double least, double most)
    {
        if (Value(name) is not { } value)
        {
            return null;
        }

        double number = value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out double given) ? given : throw Wrong(name, "a number", value);
        return number >= least && number <= most ? number : throw ApiError.Invalid(name, FormattableString.Invariant($"{name} is {number}. Expected {least} to {most}."));
    }

    public int? Whole(string name, int least, int most) =>
        Number(name, least, most) is not { } number ? null : number == Math.Floor(number) ? (int)number : throw ApiError.Invalid(name, FormattableString.Invariant($"{name} is {number}. Expected a whole number."));

    public long? Long(string name) => Value(name) is not { } value ? null
        : value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out long number) ? number : throw Wrong(name, "a whole number of 64 bits", value);

    /// <summary>A string or a list of strings.</summary>
    public IReadOnlyList<string> Texts(string name, int most) => Value(name) switch
    {
        null => [],
        { ValueKind: JsonValueKind.String } one => [one.GetString()!],
        { ValueKind: JsonValueKind.Array } list => [.. Counted(name, list, most).Select(n => n.ValueKind == JsonValueKind.String ? n.GetString()! : throw Wrong(name, "strings", n))],
        { } other => throw Wrong(name, "a string or a list of strings", other),
    };

    /// <summary>A list of whole numbers.</summary>
    public IReadOnlyList<int> Wholes(string name, int most) => Value(name) switch
    {
        null => [],
        { ValueKind: JsonValueKind.Array } list => [.. Counted(name, list, most).Select(n => n.ValueKind == JsonValueKind.Number && n.TryGetInt32(out int number) ? number : throw Wrong(name, "token ids", n))],
        { } other => throw Wrong(name, "a list of token ids", other),
    };

    public JsonObject? Object(string name) => Value(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Object } value => JsonObject.Create(value),
        { } other => throw Wrong(name, "an object", other),
    };

    /// <summary>A list, as nodes of its own.</summary>
    public JsonArray? List(string name, int most)
    {
        if (Value(name) is not { } value)
        {
            return null;
        }

        _ = value.ValueKind == JsonValueKind.Array ? Counted(name, value, most) : throw Wrong(name, "a list", value);
        return JsonArray.Create(value);
    }

    public static JsonElement.ArrayEnumerator Counted(string name, JsonElement list, int most) => list.GetArrayLength() <= most
        ? list.EnumerateArray()
        : throw ApiError.Invalid(name, $"{name} has {list.GetArrayLength()} entries. Expected at most {most}.");

    public static ApiError Wrong(string name, string expected, JsonElement found) => ApiError.Invalid(name, $"{name}: expected {expected}, found {Describe(found)}.");

    public static ApiError Wrong(string name, string expected, JsonNode? found) => ApiError.Invalid(name, $"{name}: expected {expected}, found {ApiError.Shorten(found?.ToJsonString() ?? "null")}.");

    private static string Describe(JsonElement found) => found.ValueKind is JsonValueKind.Array or JsonValueKind.Object
        ? found.ValueKind == JsonValueKind.Array ? "a list" : "an object"
        : ApiError.Shorten(found.GetRawText());

    // \ud800 alone passes for JSON, but is no text: reading it fails.
    private static void CheckTexts(JsonElement element)
    {
        switch (element.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (JsonProperty property in element.EnumerateObject())
                {
                    _ = property.Name;
                    CheckTexts(property.Value);
                }

                break;
            case JsonValueKind.Array:
                foreach (JsonElement one in element.EnumerateArray())
                {
                    CheckTexts(one);
                }

                break;
            case JsonValueKind.String:
                _ = element.GetString();
                break;
        }
    }
}
