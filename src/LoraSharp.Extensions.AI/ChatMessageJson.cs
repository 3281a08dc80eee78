using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using Microsoft.Extensions.AI;

namespace LoraSharp.Extensions.AI;

/// <summary>Messages and tools of Microsoft.Extensions.AI as chat templates expect them.</summary>
internal static class ChatMessageJson
{
    // Every token of a result is paid for: no indentation, no escapes where none are needed.
    private static readonly JsonSerializerOptions Compact = new(AIJsonUtilities.DefaultOptions) { WriteIndented = false, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    public static JsonArray Of(IEnumerable<ChatMessage> messages, string? instructions)
    {
        var names = new Dictionary<string, string>(StringComparer.Ordinal);
        var list = new JsonArray();
        if (!string.IsNullOrEmpty(instructions))
        {
            list.Add((JsonNode)new JsonObject { ["role"] = "system", ["content"] = instructions });
        }

        foreach (ChatMessage message in messages)
        {
            Add(message, names, list);
        }

        return list.Count > 0 ? list : throw new LoraSharpException("There are no messages to answer.");
    }

    public static JsonArray? Of(IEnumerable<AITool>? tools)
    {
        JsonNode[] functions = [.. (tools ?? []).Select(tool => (JsonNode)new JsonObject
        {
            ["type"] = "function",
            ["function"] = tool is AIFunctionDeclaration function
                ? new JsonObject { ["name"] = function.Name, ["description"] = function.Description, ["parameters"] = JsonObject.Create(function.JsonSchema) ?? [] }
                : throw new LoraSharpException($"The tool '{tool.Name}' is no function. A local model calls functions only."),
        })];
        return functions.Length == 0 ? null : new JsonArray(functions);
    }

    private static void Add(ChatMessage message, Dictionary<string, string> names, JsonArray list)
    {
        var text = new List<string>();
        var calls = new JsonArray();
        bool answers = false;
        foreach (AIContent content in message.Contents)
        {
            switch (content)
            {
                case TextContent part:
                    text.Add(part.Text);
                    break;
                case FunctionCallContent call:
                    names[call.CallId] = call.Name;
                    calls.Add((JsonNode)new JsonObject
                    {
                        ["id"] = call.CallId,
                        ["type"] = "function",
                        ["function"] = new JsonObject { ["name"] = call.Name, ["arguments"] = JsonSerializer.SerializeToNode(call.Arguments ?? new Dictionary<string, object?>(), AIJsonUtilities.DefaultOptions) },
                    });
                    break;
                case FunctionResultContent result:
                    answers = true;
                    list.Add((JsonNode)new JsonObject { ["role"] = "tool", ["tool_call_id"] = result.CallId, ["name"] = names.GetValueOrDefault(result.CallId, ""), ["content"] = Text(result) });
                    break;
                case DataContent or UriContent:
                    throw new LoraSharpException("A message has an image, a sound or a file. The model reads text only.");
            }
        }

        if (text.Count > 0 || calls.Count > 0 || !answers)
        {
            // What newer models of OpenAI call the system's voice.
            string role = message.Role.Value == "developer" ? "system" : message.Role.Value;
            var one = new JsonObject { ["role"] = role, ["content"] = string.Join('\n', text) };
            if (calls.Count > 0)
            {
                one["tool_calls"] = calls;
            }

            list.Add((JsonNode)one);
        }
    }

    private static string Text(FunctionResultContent result) => result.Exception is { } error ? $"Error: {error.Message}"
        : result.Result switch
        {
            null => "null",
            string text => text,
            JsonElement { ValueKind: JsonValueKind.String } element => element.GetString()!,
            object other => JsonSerializer.Serialize(other, Compact),
        };
}
