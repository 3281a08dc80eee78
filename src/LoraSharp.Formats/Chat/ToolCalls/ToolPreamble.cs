using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Chat.ToolCalls;

/// <summary>
/// Tools for a model whose chat template knows none: they are told in the system message, and calls and their results become
/// plain text, in the form of <see cref="ToolCallFormat.Hermes"/>. A model that was tuned on such rows, or is clever enough, calls.
/// </summary>
public static class ToolPreamble
{
    private static readonly JsonSerializerOptions Readable = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Rewrites a conversation.</summary>
    /// <param name="messages">As in a chat request; not changed.</param>
    /// <param name="tools">As in a chat request; null or empty for none.</param>
    /// <returns>Messages of the roles system, user and assistant with texts as content.</returns>
    public static JsonArray Apply(JsonArray messages, JsonArray? tools)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var plain = new JsonArray();
        if (tools is { Count: > 0 })
        {
            string own = messages.FirstOrDefault() is JsonObject { } first && (string?)first["role"] == "system" ? Content(first) + "\n\n" : "";
            plain.Add((JsonNode)Message("system", own + Describe(tools)));
        }

        for (int i = 0; i < messages.Count; i++)
        {
            var message = (JsonObject)messages[i]!;
            string role = (string?)message["role"] ?? "";
            if (role == "system" && i == 0 && plain.Count > 0)
            {
                continue;
            }

            plain.Add((JsonNode)(role switch
            {
                "tool" => Message("user", $"<tool_response>\n{Content(message)}\n</tool_response>"),
                "assistant" when message["tool_calls"] is JsonArray calls => Message(role, string.Join('\n', calls.Select(Call).Prepend(Content(message)).Where(t => t.Length > 0))),
                _ => Message(role, Content(message)),
            }));
        }

        return plain;
    }

    private static string Describe(JsonArray tools) => $$$"""
        You may call these functions, one JSON object each:
        <tools>
        {{{string.Join('\n', tools.Select(t => (t?["function"] ?? t)?.ToJsonString(Readable)))}}}
        </tools>
        To call one, answer with its name and its arguments as JSON between these marks and nothing else:
        <tool_call>
        {"name": "NAME", "arguments": {"KEY": "VALUE"}}
        </tool_call>
        """;

    private static string Call(JsonNode? call) =>
        $"<tool_call>\n{new JsonObject { ["name"] = call?["function"]?["name"]?.DeepClone(), ["arguments"] = call?["function"]?["arguments"]?.DeepClone() ?? new JsonObject() }.ToJsonString(Readable)}\n</tool_call>";

    private static JsonObject Message(string role, string content) => new() { ["role"] = role, ["content"] = content };

    private static string Content(JsonObject message) => message["content"] is JsonValue text && text.GetValueKind() == JsonValueKind.String ? text.GetValue<string>() : "";
}
