using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Chat.ToolCalls;

/// <summary>
/// Finds tool calls in generated text. The text must still have the special tokens that open a call (decode without skipping
/// them). A call that is not well-formed is no error: models write such, and the reader of the answer should see it.
/// </summary>
/// <param name="format">How the model writes calls.</param>
/// <param name="tools">
/// The tools offered, as in a chat request; where a format has no types (<see cref="ToolCallFormat.QwenXml"/>) their schemas
/// say which values are texts. May be null.
/// </param>
public sealed partial class ToolCallParser(ToolCallFormat format, JsonArray? tools = null)
{
    private const string HermesOpen = "<tool_call>";
    private const string HermesClose = "</tool_call>";
    private const string PythonTag = "<|python_tag|>";
    private const string MistralOpen = "[TOOL_CALLS]";

    /// <summary>How a model whose chat template this is writes its calls.</summary>
    public static ToolCallFormat Detect(string templateSource)
    {
        ArgumentNullException.ThrowIfNull(templateSource);
        return Has("<function=") && Has(HermesOpen) ? ToolCallFormat.QwenXml
            : Has(HermesOpen) ? ToolCallFormat.Hermes
            : Has(MistralOpen) ? ToolCallFormat.Mistral
            : Has(PythonTag) || (Has("<|eot_id|>") && Has("\"parameters\"")) ? ToolCallFormat.Llama
            : ToolCallFormat.None;

        bool Has(string part) => templateSource.Contains(part, StringComparison.Ordinal);
    }

    /// <summary>Takes a finished answer apart.</summary>
    public AssistantText Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var calls = new List<ToolCall>();
        string content = format switch
        {
            ToolCallFormat.Hermes or ToolCallFormat.QwenXml => ParseTagged(text, calls),
            ToolCallFormat.Llama => ParseLlama(text, calls),
            ToolCallFormat.Mistral => ParseMistral(text, calls),
            _ => text,
        };
        return calls.Count == 0 ? new AssistantText(text, []) : new AssistantText(content.Trim(), calls);
    }

    private string ParseTagged(string text, List<ToolCall> calls)
    {
        var content = new StringBuilder();
        int at = 0;
        for (int open; (open = text.IndexOf(HermesOpen, at, StringComparison.Ordinal)) >= 0;)
        {
            int start = open + HermesOpen.Length;
            // The last call may have lost its closing tag to the end of the generation.
            ToolCall? call = ReadXml(text, start, out int end) ?? ReadObject(text, start, "arguments", out end);
            int behind = call is null ? start : SkipBlanks(text, end);
            content.Append(text, at, (call is null ? start : open) - at);
            if (call is not null)
            {
                calls.Add(call);
                behind = text.AsSpan(behind).StartsWith(HermesClose, StringComparison.Ordinal) ? behind + HermesClose.Length : end;
            }

            at = behind;
        }

        return content.Append(text, at, text.Length - at).ToString();
    }

    private ToolCall? ReadXml(string text, int start, out int end)
    {
        end = start;
        Match function = XmlFunction().Match(text, start);
        if (!function.Success)
        {
            return null;
        }

        end = function.Index + function.Length;
        string name = function.Groups["name"].Value;
        var arguments = new JsonObject();
        foreach (Match parameter in XmlParameter().Matches(function.Groups["body"].Value))
        {
            string key = parameter.Groups["key"].Value;
            arguments[key] = XmlValue(parameter.Groups["value"].Value, SchemaType(name, key));
        }

        return new ToolCall(name, arguments.ToJsonString(Readable));
    }

    // Values have no quotes, so that only the schema knows whether 42 is a text.
    private static JsonNode? XmlValue(string value, string? type)
    {
        if (type == "string")
        {
            return value;
        }

        try
        {
            using JsonDocument parsed = JsonDocument.Parse(value);
            return type is null && parsed.RootElement.ValueKind == JsonValueKind.String ? value : JsonNode.Parse(value);
        }
        catch (JsonException)
        {
            return value is "True" or "False" ? value == "True" : value == "None" ? null : value;
        }
    }

    private string? SchemaType(string function, string parameter)
    {
        foreach (JsonNode? tool in tools ?? [])
        {
            JsonNode? declared = (tool as JsonObject)?["function"] ?? tool;
            if (declared is JsonObject named && (named["name"] as JsonValue)?.ToString() == function)
            {
                return (((named["parameters"] as JsonObject)?["properties"] as JsonObject)?[parameter] as JsonObject)?["type"] is JsonValue type ? type.ToString() : null;
            }
        }

        return null;
    }

    private static string ParseLlama(string text, List<ToolCall> calls)
    {
        int tag = text.IndexOf(PythonTag, StringComparison.Ordinal);
        int start = tag < 0 ? SkipBlanks(text, 0) : SkipBlanks(text, tag + PythonTag.Length);
        if (tag >= 0 && BuiltIn().Match(text, start) is { Success: true } builtIn)
        {
            calls.Add(new ToolCall(builtIn.Groups["name"].Value, $"{{{Quote(builtIn.Groups["key"].Value)}: \"{builtIn.Groups["value"].Value}\"}}"));
            return text[..tag];
        }

        // Several calls are separated by semicolons. Anything else around them means that it is JSON the user asked for.
        var found = new List<ToolCall>();
        int at = start;
        while (at < text.Length && ReadObject(text, at, "parameters", out int end) is { } call)
        {
            found.Add(call);
            at = SkipBlanks(text, end);
            at = at < text.Length && text[at] == ';' ? SkipBlanks(text, at + 1) : at;
        }

        if (at < text.Length && !text.AsSpan(at).StartsWith("<|", StringComparison.Ordinal))
        {
            return text;
        }

        calls.AddRange(found);
        return tag > 0 ? text[..tag] : string.Empty;
    }

    private static string ParseMistral(string text, List<ToolCall> calls)
    {
        int open = text.IndexOf(MistralOpen, StringComparison.Ordinal);
        if (open < 0)
        {
            return text;
        }

        string content = text[..open];
        while (open >= 0)
        {
            int start = SkipBlanks(text, open + MistralOpen.Length);
            int end = start;
            if (start < text.Length && text[start] == '[')
            {
                end = ReadList(text, start, calls);
            }
            else if (MistralName().Match(text, start) is { Success: true } name && JsonStretch(text, name.Index + name.Length) is { } stretch)
            {
                end = stretch.End;
                calls.Add(new ToolCall(name.Groups["name"].Value, stretch.Text, name.Groups["id"] is { Success: true, Value: var id } ? id : null));
            }

            int next = text.IndexOf(MistralOpen, end, StringComparison.Ordinal);
            content += next < 0 ? text[Math.Min(text.Length, SkipBlanks(text, end))..].Replace("</s>", string.Empty, StringComparison.Ordinal) : string.Empty;
            open = next;
        }

        return content;
    }

    private static int ReadList(string text, int start, List<ToolCall> calls)
    {
        if (JsonStretch(text, start) is not { } list)
        {
            return start;
        }

        using JsonDocument parsed = JsonDocument.Parse(list.Text);
        ToolCall?[] found = parsed.RootElement.EnumerateArray().Select(element => FromElement(element, "arguments")).ToArray();
        if (found.Length == 0 || found.Contains(null))
        {
            return start;
        }

        calls.AddRange(found!);
        return list.End;
    }

    private static ToolCall? ReadObject(string text, int start, string argumentsKey, out int end)
    {
        start = SkipBlanks(text, start);
        end = start;
        if (start >= text.Length || text[start] != '{' || JsonStretch(text, start) is not { } stretch)
        {
            return null;
        }

        end = stretch.End;
        using JsonDocument parsed = JsonDocument.Parse(stretch.Text);
        return FromElement(parsed.RootElement, argumentsKey);
    }

    // Models trained on one key at times write the other.
    private static ToolCall? FromElement(JsonElement element, string argumentsKey)
    {
        if (element.ValueKind != JsonValueKind.Object || !element.TryGetProperty("name", out JsonElement name) || name.ValueKind != JsonValueKind.String || name.GetString() is not { Length: > 0 } called)
        {
            return null;
        }

        string? id = element.TryGetProperty("id", out JsonElement given) && given.ValueKind == JsonValueKind.String ? given.GetString() : null;
        if (!element.TryGetProperty(argumentsKey, out JsonElement arguments) && !element.TryGetProperty("arguments", out arguments) && !element.TryGetProperty("parameters", out arguments))
        {
            return null;
        }

        return arguments.ValueKind switch
        {
            JsonValueKind.Object => new ToolCall(called, arguments.GetRawText(), id),
            JsonValueKind.String when JsonStretch(arguments.GetString()!, 0) is { } inner && inner.Text.StartsWith('{') => new ToolCall(called, inner.Text, id),
            JsonValueKind.Null => new ToolCall(called, "{}", id),
            _ => null,
        };
    }

    /// <summary>The JSON object or list that begins here; null when it does not end or is not valid.</summary>
    private static (string Text, int End)? JsonStretch(string text, int start)
    {
        int depth = 0;
        bool inText = false;
        for (int i = start; i < text.Length; i++)
        {
            char c = text[i];
            if (inText)
            {
                i += c == '\\' ? 1 : 0;
                inText = c != '"';
            }
            else if (c == '"')
            {
                inText = true;
            }
            else
            {
                depth += c is '{' or '[' ? 1 : c is '}' or ']' ? -1 : 0;
                if (depth == 0)
                {
                    string stretch = text[start..(i + 1)];
                    return IsJson(stretch) ? (stretch, i + 1) : null;
                }
            }
        }

        return null;
    }

    private static bool IsJson(string text)
    {
        try
        {
            using JsonDocument parsed = JsonDocument.Parse(text);
            return parsed.RootElement.ValueKind is JsonValueKind.Object or JsonValueKind.Array;
        }
        catch (JsonException)
        {
            return false;
        }
    }

    private static int SkipBlanks(string text, int at)
    {
        while (at < text.Length && char.IsWhiteSpace(text[at]))
        {
            at++;
        }

        return at;
    }

    private static string Quote(string text) => JsonSerializer.Serialize(text);

    private static readonly JsonSerializerOptions Readable = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    [GeneratedRegex(@"\G\s*<function=(?<name>[^>\s]+)>(?<body>.*?)</function>", RegexOptions.Singleline)]
    private static partial Regex XmlFunction();

    [GeneratedRegex(@"<parameter=(?<key>[^>\s]+)>\n?(?<value>.*?)\n?</parameter>", RegexOptions.Singleline)]
    private static partial Regex XmlParameter();

    [GeneratedRegex("""\G(?<name>\w+)\.call\((?<key>\w+)="(?<value>(?:[^"\\]|\\["\\/bfnrt])*)"\)""")]
    private static partial Regex BuiltIn();

    [GeneratedRegex(@"\G(?<name>[\w.-]+)\s*(?:\[CALL_ID\](?<id>\w+)\s*)?(?:\[ARGS\]\s*)?(?=\{)")]
    private static partial Regex MistralName();
}
