using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Datasets;

/// <summary>Brings conversations in the shapes that are about (OpenAI, ShareGPT, tool calls of both) into the one that chat templates take.</summary>
internal static class ConversationParser
{
    private static readonly string[] OwnKeys = ["weight", "train", "trainable", "from", "value"];

    public static ChatContent Parse(RowFields fields)
    {
        JsonArray list = fields.Node("messages") as JsonArray ?? throw (fields.Node("messages") is { } other
            ? fields.Fault($"'messages' must be a list of messages, found {DatasetReader.Kind(other)}.")
            : fields.Missing("messages", "a list of messages"));
        return Build(fields, list, 0);
    }

    /// <summary>A prompt of messages and a completion of messages or text.</summary>
    public static ChatContent PromptAndCompletion(RowFields fields, string completion)
    {
        var prompt = (JsonArray)fields.Node("prompt")!;
        JsonArray answer = Answer(fields, completion);
        return Build(fields, Concatenate(prompt, answer), prompt.Count);
    }

    /// <summary>Messages of an answer column: a list of messages, one message, or the text of an assistant's message.</summary>
    public static JsonArray Answer(RowFields fields, string field) => fields.Node(field) switch
    {
        JsonArray list => list,
        JsonObject one => new JsonArray(one.DeepClone()),
        JsonValue text when text.TryGetValue(out string? content) => new JsonArray(new JsonObject { ["role"] = "assistant", ["content"] = content }),
        null => throw fields.Missing(field, "text or messages"),
        var other => throw fields.Fault($"'{field}' must be text or messages, found {DatasetReader.Kind(other)}."),
    };

    public static JsonArray Concatenate(JsonArray first, JsonArray second) => new([.. first.Concat(second).Select(m => m?.DeepClone())]);

    public static ChatContent Build(RowFields fields, JsonArray list, int promptMessages)
    {
        if (list.Count == 0)
        {
            throw fields.Fault("the list of messages is empty.");
        }

        var messages = new JsonArray();
        var weights = new List<float?>();
        if (fields.OptionalText("system") is { Length: > 0 } system)
        {
            if (list[0] is JsonObject first && Role(first) == "system")
            {
                throw fields.Fault("the row has a 'system' column and a first message of role system. Expected one of them.");
            }

            messages.Add(new JsonObject { ["role"] = "system", ["content"] = system });
            weights.Add(null);
            promptMessages += promptMessages > 0 ? 1 : 0;
        }

        for (int i = 0; i < list.Count; i++)
        {
            JsonObject message = list[i] as JsonObject ?? throw fields.Fault($"message {i} must be an object with role and content (or from and value), found {DatasetReader.Kind(list[i])}.");
            messages.Add(Message(fields, message, i));
            weights.Add(Weight(fields, message, i));
        }

        return new ChatContent(messages, weights, promptMessages, Variables(fields));
    }

    private static JsonObject Message(RowFields fields, JsonObject source, int index)
    {
        string from = Text(source, "role") ?? Text(source, "from")
            ?? throw fields.Fault($"message {index} has no 'role' (or 'from'). Found {string.Join(", ", source.Select(p => p.Key))}.");
        JsonNode? content = source["content"] ?? source["value"] ?? source["text"];
        if (from == "function_call" || (source.ContainsKey("from") && from == "tool_call"))
        {
            return ToolCall(fields, content, index);
        }

        if (content is null && source["tool_calls"] is not JsonArray)
        {
            throw fields.Fault($"message {index} ({from}) has no 'content' (or 'value').");
        }

        if (content is not null && content is not JsonArray && content.GetValueKind() != JsonValueKind.String)
        {
            throw fields.Fault($"the content of message {index} ({from}) must be text or a list of parts, found {DatasetReader.Kind(content)}.");
        }

        if (source.ContainsKey("role") && MessageRoles.Meant(from) is { } meant)
        {
            throw fields.Fault($"message {index} has the role '{from}', which no chat template knows. Expected system, user, assistant or tool. Did you mean '{meant}'?");
        }

        var message = new JsonObject
        {
            ["role"] = source.ContainsKey("role") ? from : RoleOf(from) ?? throw fields.Fault($"message {index} is from '{from}'. Expected human, gpt, system, function_call or observation."),
            ["content"] = content?.DeepClone() ?? "",
        };
        foreach ((string name, JsonNode? value) in source)
        {
            if (value is not null && !message.ContainsKey(name) && !OwnKeys.Contains(name))
            {
                message[name] = value.DeepClone();
            }
        }

        return message;
    }

    private static string? Role(JsonObject message) => Text(message, "role") ?? (Text(message, "from") is { } from ? RoleOf(from) : null);

    private static string? RoleOf(string from) => from.ToLowerInvariant() switch
    {
        "human" or "user" => "user",
        "gpt" or "assistant" or "chatgpt" or "bing" or "bard" or "model" or "ai" => "assistant",
        "system" => "system",
        "observation" or "tool" or "function_response" or "tool_response" => "tool",
        _ => null,
    };

    // {"name": ..., "arguments": {...}} or a list of those, as text or as it is; what is no JSON stays an assistant's text.
    private static JsonObject ToolCall(RowFields fields, JsonNode? content, int index)
    {
        JsonNode? node = content;
        string text = content is JsonValue value && value.TryGetValue(out string? raw) ? raw : content?.ToJsonString() ?? throw fields.Fault($"message {index} (function_call) has no content.");
        if (content is JsonValue)
        {
            try
            {
                node = StrictJson.Parse(text);
            }
            catch (JsonException)
            {
                return new JsonObject { ["role"] = "assistant", ["content"] = text };
            }
        }

        JsonArray calls = node is JsonArray many ? many : new JsonArray(node?.DeepClone());
        var result = new JsonArray();
        foreach (JsonNode? call in calls)
        {
            if (call is not JsonObject function || Text(function, "name") is not { } name)
            {
                return new JsonObject { ["role"] = "assistant", ["content"] = text };
            }

            result.Add(new JsonObject
            {
                ["type"] = "function",
                ["function"] = new JsonObject { ["name"] = name, ["arguments"] = Arguments(function["arguments"] ?? function["parameters"]) },
            });
        }

        return new JsonObject { ["role"] = "assistant", ["content"] = "", ["tool_calls"] = result };
    }

    private static JsonNode Arguments(JsonNode? node)
    {
        if (node is JsonValue value && value.TryGetValue(out string? text))
        {
            try
            {
                return StrictJson.Parse(text) ?? new JsonObject();
            }
            catch (JsonException)
            {
                return text;
            }
        }

        return node?.DeepClone() ?? new JsonObject();
    }

    private static float? Weight(RowFields fields, JsonObject message, int index)
    {
        foreach (string name in (string[])["train", "trainable", "weight"])
        {
            if (message[name] is not { } node)
            {
                continue;
            }

            return node.GetValueKind() switch
            {
                JsonValueKind.True => 1,
                JsonValueKind.False => 0,
                _ when RowFields.Number(node) is { } weight and >= 0 && float.IsFinite(weight) => weight,
                _ => throw fields.Fault($"'{name}' of message {index} must be true, false or a number from 0, found {node.ToJsonString()}."),
            };
        }

        return null;
    }

    private static JsonObject Variables(RowFields fields)
    {
        var variables = new JsonObject();
        if (fields.Row.Fields["chat_template_kwargs"] is JsonObject given)
        {
            foreach ((string name, JsonNode? value) in given)
            {
                variables[name] = value?.DeepClone();
            }
        }

        JsonNode? tools = fields.Row.Fields["tools"];
        if (tools is JsonValue value1 && value1.TryGetValue(out string? text))
        {
            try
            {
                tools = string.IsNullOrWhiteSpace(text) ? null : StrictJson.Parse(text);
            }
            catch (JsonException error)
            {
                throw fields.Fault($"'tools' must be a list of tools or one as JSON text: {error.Message}");
            }
        }

        if (tools is JsonArray { Count: > 0 } list)
        {
            // Templates expect OpenAI's form; many sets write the function alone.
            variables["tools"] = new JsonArray([.. list.Select(tool => tool is JsonObject o && !o.ContainsKey("function") && o.ContainsKey("name")
                ? new JsonObject { ["type"] = "function", ["function"] = o.DeepClone() }
                : tool?.DeepClone())]);
        }
        else if (tools is not (null or JsonArray))
        {
            throw fields.Fault($"'tools' must be a list, found {DatasetReader.Kind(tools)}.");
        }

        return variables;
    }

    private static string? Text(JsonObject message, string name) => message[name] is JsonValue value && value.TryGetValue(out string? text) ? text : null;
}
