using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Tokenization;

/// <summary>Writes the post-processor that puts a token before and one after each text.</summary>
internal static class TemplateJson
{
    /// <summary>The TemplateProcessing of tokenizer.json; null when there is nothing to add.</summary>
    public static JsonObject? Around((string Content, int Id)? first, (string Content, int Id)? last)
    {
        if (first is null && last is null)
        {
            return null;
        }

        var special = new JsonObject();
        return new JsonObject { ["type"] = "TemplateProcessing", ["single"] = Sequence("A"), ["pair"] = Sequence("A", "B"), ["special_tokens"] = special };

        JsonArray Sequence(params string[] names)
        {
            var template = new JsonArray();
            for (int type = 0; type < names.Length; type++)
            {
                Add(template, first, type);
                template.Add((JsonNode)new JsonObject { ["Sequence"] = new JsonObject { ["id"] = names[type], ["type_id"] = type } });
                Add(template, last, type);
            }

            return template;
        }

        void Add(JsonArray template, (string Content, int Id)? token, int type)
        {
            if (token is { } known)
            {
                template.Add((JsonNode)new JsonObject { ["SpecialToken"] = new JsonObject { ["id"] = known.Content, ["type_id"] = type } });
                special[known.Content] = new JsonObject { ["id"] = known.Content, ["ids"] = new JsonArray(known.Id), ["tokens"] = new JsonArray(known.Content) };
            }
        }
    }
}
