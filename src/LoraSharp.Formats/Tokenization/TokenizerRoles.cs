using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// What <c>tokenizer_config.json</c>, <c>special_tokens_map.json</c> and <c>config.json</c> say about a tokenizer: the
/// first file that names a role's token decides.
/// </summary>
internal sealed record TokenizerRoles
{
    public required SpecialTokens Special { get; init; }

    /// <summary><c>add_bos_token</c>; null where the files do not say.</summary>
    public bool? AddsBos { get; init; }

    /// <summary><c>add_eos_token</c>; null where the files do not say.</summary>
    public bool? AddsEos { get; init; }

    /// <summary>Reads what is there; all of the files are optional.</summary>
    public static TokenizerRoles FromFolder(string folder)
    {
        JsonObject? config = Read(folder, "tokenizer_config.json");
        JsonObject? map = Read(folder, "special_tokens_map.json");
        return new TokenizerRoles
        {
            Special = new SpecialTokens(Token("bos_token", config, map), Token("eos_token", config, map), Token("pad_token", config, map)),
            AddsBos = Flag(config, "add_bos_token"),
            AddsEos = Flag(config, "add_eos_token"),
        };
    }

    private static string? Token(string role, params JsonObject?[] files)
    {
        foreach (JsonObject? file in files)
        {
            // Either the text itself or an added token with its text in "content".
            JsonNode? value = file?[role] is JsonObject token ? token["content"] : file?[role];
            if (value is JsonValue text && text.TryGetValue(out string? content))
            {
                return content;
            }
        }

        return null;
    }

    private static bool? Flag(JsonObject? config, string name) => config?[name] is JsonValue value && value.TryGetValue(out bool flag) ? flag : null;

    private static JsonObject? Read(string folder, string name)
    {
        string path = Path.Combine(folder, name);
        return File.Exists(path) ? JsonFile.ReadObject(path) : null;
    }
}
