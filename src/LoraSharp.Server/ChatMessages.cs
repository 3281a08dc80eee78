using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Server;

/// <summary>The messages of a chat request, checked, as chat templates expect them.</summary>
internal static class ChatMessages
{
    private const int Most = 10_000;

    public static JsonArray Read(RequestBody body)
    {
        if (body.List("messages", Most) is not { Count: > 0 } given)
        {
            throw ApiError.Invalid("messages", "messages: expected a list of at least one message.");
        }

        return new JsonArray([.. given.Select((m, i) => (JsonNode)One(m as JsonObject ?? throw RequestBody.Wrong($"messages[{i}]", "an object with role and content", m), $"messages[{i}]"))]);
    }

    private static JsonObject One(JsonObject given, string at)
    {
        var message = (JsonObject)given.DeepClone();
        string role = Text(message["role"]) ?? throw RequestBody.Wrong(at + ".role", "a role", message["role"]);
        message["role"] = role switch
        {
            // What newer models of OpenAI call the system's voice.
            "developer" => "system",
            "system" or "user" or "assistant" or "tool" => role,
            _ => throw ApiError.Invalid(at + ".role", $"{at}.role is '{ApiError.Shorten(role)}'. Expected system, developer, user, assistant or tool."),
        };
        message["content"] = Content(message["content"], at + ".content") ?? (role == "assistant" && message["tool_calls"] is JsonArray { Count: > 0 } ? null : throw ApiError.Invalid(at + ".content", $"{at}.content is missing."));
        if (message["tool_calls"] is { } calls)
        {
            ReadArguments(calls, at + ".tool_calls");
        }

        return message;
    }

    // Content in parts: a text model has no use for others than texts.
    private static string? Content(JsonNode? content, string at) => content switch
    {
        null => null,
        JsonArray parts => string.Join('\n', parts.Select(part => part is JsonObject one && Text(one["type"]) is "text" or "refusal" && (Text(one["text"]) ?? Text(one["refusal"])) is { } text
            ? text
            : throw RequestBody.Wrong(at, "parts of the type text: the model reads no images, sounds or files", part))),
        _ => Text(content) ?? throw RequestBody.Wrong(at, "a text", content),
    };

    // OpenAI sends arguments as the text of an object; templates write an object.
    private static void ReadArguments(JsonNode calls, string at)
    {
        foreach (JsonNode? call in calls as JsonArray ?? throw RequestBody.Wrong(at, "a list", calls))
        {
            if (call is not JsonObject || call["function"] is not JsonObject function || Text(function["name"]) is null)
            {
                throw RequestBody.Wrong(at, "objects with function.name and function.arguments", call);
            }

            if (Text(function["arguments"]) is { } text)
            {
                try
                {
                    function["arguments"] = text.Length == 0 ? new JsonObject() : StrictJson.Parse(text) as JsonObject ?? function["arguments"]!.DeepClone();
                }
                catch (JsonException)
                {
                    // Models write such, and the conversation goes on: it stays the text it is.
                }
            }
        }
    }

    private static string? Text(JsonNode? node) => node?.GetValueKind() == JsonValueKind.String ? node.GetValue<string>() : null;
}
