using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Server;

/// <summary>
/// Tool calls out of generated text in the two forms most open models write: JSON between <c>&lt;tool_call&gt;</c> tags
/// (Hermes, Qwen), and a bare JSON object with name and parameters (Llama 3.1).
/// </summary>
internal static class ToolCallText
{
    private const string Open = "<tool_call>";
    private const string Close = "</tool_call>";

    /// <summary>The calls in OpenAI's shape; empty when there are none.</summary>
    public static JsonArray Parse(string text)
    {
        var calls = new JsonArray();
        if (!text.Contains(Open, StringComparison.Ordinal))
        {
            string bare = text.Trim();
            bare = bare.StartsWith("<|python_tag|>", StringComparison.Ordinal) ? bare["<|python_tag|>".Length..] : bare;
            Add(calls, bare);
            return calls;
        }

        for (int at = 0; (at = text.IndexOf(Open, at, StringComparison.Ordinal)) >= 0;)
        {
            int start = at + Open.Length;
            int end = text.IndexOf(Close, start, StringComparison.Ordinal);
            Add(calls, end < 0 ? text[start..] : text[start..end]);
            at = end < 0 ? text.Length : end;
        }

        return calls;
    }

    /// <summary>What was said before the first call; null for nothing.</summary>
    public static string? Before(string text)
    {
        int at = text.IndexOf(Open, StringComparison.Ordinal);
        string before = at < 0 ? "" : text[..at].Trim();
        return before.Length > 0 ? before : null;
    }

    private static void Add(JsonArray calls, string json)
    {
        try
        {
            if (JsonNode.Parse(json) is JsonObject call && (string?)call["name"] is { } name && (call["arguments"] ?? call["parameters"]) is { } arguments)
            {
                calls.Add((JsonNode)new JsonObject
                {
                    ["id"] = $"call_{calls.Count}_{Guid.NewGuid():N}",
                    ["type"] = "function",
                    ["function"] = new JsonObject { ["name"] = name, ["arguments"] = arguments.GetValueKind() == JsonValueKind.String ? arguments.GetValue<string>() : arguments.ToJsonString() },
                });
            }
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            // Text that only looks like a call stays text.
        }
    }
}
