using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Chat;

/// <summary>Where a model folder keeps its chat templates and special tokens.</summary>
internal static class ChatTemplateFiles
{
    private static readonly string[] TokenNames = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

    public static ChatTemplate? Load(string folder, TimeProvider? clock, ChatTemplateLimits? limits)
    {
        string configPath = Path.Combine(folder, "tokenizer_config.json");
        JsonObject config = File.Exists(configPath) ? JsonFile.ReadObject(configPath) : [];
        Dictionary<string, string> sources = FromFiles(folder);
        if (sources.Count == 0)
        {
            sources = FromConfig(config["chat_template"], configPath);
        }

        string processorPath = Path.Combine(folder, "chat_template.json");
        if (sources.Count == 0 && File.Exists(processorPath))
        {
            sources = FromConfig(JsonFile.ReadObject(processorPath)["chat_template"], processorPath);
        }

        return sources.Count == 0 ? null : ChatTemplate.Create(sources, SpecialTokens(folder, config), clock, limits);
    }

    private static Dictionary<string, string> FromFiles(string folder)
    {
        var sources = new Dictionary<string, string>();
        string single = Path.Combine(folder, "chat_template.jinja");
        if (File.Exists(single))
        {
            sources["default"] = File.ReadAllText(single);
        }

        string more = Path.Combine(folder, "additional_chat_templates");
        if (Directory.Exists(more))
        {
            foreach (string path in Directory.EnumerateFiles(more, "*.jinja").Order(StringComparer.Ordinal))
            {
                sources[Path.GetFileNameWithoutExtension(path)] = File.ReadAllText(path);
            }
        }

        return sources;
    }

    private static Dictionary<string, string> FromConfig(JsonNode? template, string path)
    {
        switch (template)
        {
            case null:
                return [];
            case JsonValue value when value.TryGetValue(out string? text):
                return new Dictionary<string, string> { ["default"] = text };
            case JsonArray array:
                var sources = new Dictionary<string, string>();
                foreach (JsonNode? entry in array)
                {
                    if (entry is not JsonObject named || named["name"]?.GetValueKind() != System.Text.Json.JsonValueKind.String || named["template"]?.GetValueKind() != System.Text.Json.JsonValueKind.String)
                    {
                        throw new MalformedFileException(path, $"chat_template: expected a list of {{\"name\": ..., \"template\": ...}}, found {entry?.ToJsonString() ?? "null"}.");
                    }

                    sources[named["name"]!.GetValue<string>()] = named["template"]!.GetValue<string>();
                }

                return sources;
            case JsonObject dict:
                return dict.ToDictionary(entry => entry.Key, entry => entry.Value is JsonValue value && value.TryGetValue(out string? text)
                    ? text
                    : throw new MalformedFileException(path, $"chat_template.{entry.Key}: expected a text."));
            default:
                throw new MalformedFileException(path, "chat_template: expected a text or a list of named templates.");
        }
    }

    private static Dictionary<string, JsonNode?> SpecialTokens(string folder, JsonObject config)
    {
        string mapPath = Path.Combine(folder, "special_tokens_map.json");
        JsonObject map = File.Exists(mapPath) ? JsonFile.ReadObject(mapPath) : [];
        var tokens = new Dictionary<string, JsonNode?>();
        foreach (string name in TokenNames)
        {
            // A null in tokenizer_config.json says that there is none, whatever the older file says.
            JsonNode? token = config.ContainsKey(name) ? config[name] : map[name];
            if (Content(token) is { } content)
            {
                tokens[name] = content;
            }
        }

        JsonNode? additional = config["additional_special_tokens"] ?? map["additional_special_tokens"];
        if (additional is JsonArray { Count: > 0 } list)
        {
            tokens["additional_special_tokens"] = new JsonArray(list.Select(token => (JsonNode?)Content(token)).ToArray());
        }

        return tokens;
    }

    // A token is a text, or an object with the text and how it is matched.
    private static string? Content(JsonNode? token) => token switch
    {
        JsonValue value when value.TryGetValue(out string? text) => text,
        JsonObject added when added["content"] is JsonValue value && value.TryGetValue(out string? text) => text,
        _ => null,
    };
}
