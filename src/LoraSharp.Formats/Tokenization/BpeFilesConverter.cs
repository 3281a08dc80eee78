using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf.Tokenization;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// An old folder's <c>vocab.json</c> and <c>merges.txt</c> as the <c>tokenizer.json</c> that does the same, so that one
/// pipeline serves both. What the two files leave open is the tokenizer class's (<see cref="BpeTokenizerClass"/>).
/// </summary>
internal sealed class BpeFilesConverter
{
    public const string VocabularyFile = "vocab.json";
    public const string MergesFile = "merges.txt";

    private const string WayOut = "To make tokenizer.json where Python is: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).";

    private readonly string _folder;
    private readonly TokenizerRoles _roles;
    private readonly JsonObject _vocabulary;
    private readonly JsonObject _config;

    private BpeFilesConverter(string folder, TokenizerRoles roles)
    {
        (_folder, _roles) = (folder, roles);
        _vocabulary = JsonFile.ReadObject(Path.Combine(folder, VocabularyFile));
        _config = Optional("tokenizer_config.json") ?? [];
    }

    /// <summary>Whether a folder has the two files.</summary>
    public static bool Applies(string folder) => File.Exists(Path.Combine(folder, VocabularyFile)) && File.Exists(Path.Combine(folder, MergesFile));

    /// <summary>The tokenizer.json, and the tokens of the roles with the class's own where no file names one.</summary>
    /// <exception cref="MalformedFileException">A file is malformed, or the class is none that is known here.</exception>
    public static (JsonObject Json, SpecialTokens Special) Convert(string folder, TokenizerRoles roles) => new BpeFilesConverter(folder, roles).Convert();

    private (JsonObject Json, SpecialTokens Special) Convert()
    {
        BpeTokenizerClass kind = FindClass();
        var ids = ReadVocabulary();
        List<AddedToken> declared = [.. DeclaredTokens(kind)];
        var added = new AddedTokenBook(ids, _folder);
        declared.ForEach(added.Declare);
        Dictionary<string, AddedToken> roles = RoleTokens(kind);
        foreach (AddedToken token in roles.Values.Concat(FurtherTokens()))
        {
            added.Require(token);
        }

        var special = new SpecialTokens(Content(roles, "bos_token"), Content(roles, "eos_token"), Content(roles, "pad_token"));
        bool prefix = Flag("add_prefix_space");
        var json = new JsonObject
        {
            ["version"] = "1.0",
            ["added_tokens"] = added.ToJson(),
            ["normalizer"] = kind.Normalizer is null ? null : new JsonObject { ["type"] = kind.Normalizer },
            ["pre_tokenizer"] = PreTokenizer(kind, prefix),
            ["post_processor"] = kind.EnclosesText ? Enclosing(roles, added, prefix) : Around(special, added),
            ["decoder"] = GgufPreTokenizer.ByteLevel(useRegex: true),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["fuse_unk"] = false,
                ["byte_fallback"] = false,
                ["vocab"] = _vocabulary,
                ["merges"] = ReadMerges(ids),
            },
        };
        return (json, special);
    }

    private BpeTokenizerClass FindClass()
    {
        JsonObject? model = Optional("config.json");
        string? name = Text(_config["tokenizer_class"]) ?? Text(model?["tokenizer_class"]);
        string? modelType = Text(model?["model_type"]);
        BpeTokenizerClass? kind = name is null ? BpeTokenizerClass.OfModelType(modelType) : BpeTokenizerClass.Of(name);
        string found = name is not null ? $"tokenizer_class {name}" : modelType is not null ? $"no tokenizer_class, and the model_type {modelType}" : "neither a tokenizer_class nor a model_type";
        return kind ?? throw new MalformedFileException(
            _folder,
            $"there is no tokenizer.json, and {VocabularyFile} with {MergesFile} alone do not say how text is cut. Expected tokenizer_class {string.Join(", ", BpeTokenizerClass.AllNames)} in tokenizer_config.json; found {found}. {WayOut}");
    }

    private Dictionary<string, int> ReadVocabulary()
    {
        var ids = new Dictionary<string, int>(_vocabulary.Count, StringComparer.Ordinal);
        foreach ((string token, JsonNode? value) in _vocabulary)
        {
            ids.Add(token, value is JsonValue number && number.TryGetValue(out int id) && id >= 0
                ? id
                : throw Fault(VocabularyFile, $"the token '{token}' has the id {value?.ToJsonString() ?? "null"}; expected a whole number."));
        }

        return ids.Count > 0 ? ids : throw Fault(VocabularyFile, "holds no tokens; expected an object of token to id.");
    }

    private JsonArray ReadMerges(Dictionary<string, int> ids)
    {
        var merges = new JsonArray();
        int number = 0;
        foreach (string line in File.ReadLines(Path.Combine(_folder, MergesFile), new UTF8Encoding(false, throwOnInvalidBytes: false)))
        {
            number++;
            if (line.Length == 0 || line.StartsWith("#version", StringComparison.Ordinal))
            {
                continue;
            }

            // Byte-level tokens hold no blank, so the blank between the two is the only one.
            string[] parts = line.Split(' ');
            if (parts.Length != 2)
            {
                throw Fault(MergesFile, $"line {number} is '{Shortened(line)}'; expected two tokens with one blank between.");
            }

            string? missing = new[] { parts[0], parts[1], parts[0] + parts[1] }.FirstOrDefault(token => !ids.ContainsKey(token));
            if (missing is not null)
            {
                throw Fault(MergesFile, $"line {number} merges '{Shortened(parts[0])}' and '{Shortened(parts[1])}', but {VocabularyFile} has no token '{Shortened(missing)}': the two files don't belong together.");
            }

            merges.Add((JsonNode)new JsonArray(parts[0], parts[1]));
        }

        return merges;
    }

    /// <summary>added_tokens_decoder of tokenizer_config.json; older folders have added_tokens.json.</summary>
    private IEnumerable<AddedToken> DeclaredTokens(BpeTokenizerClass kind)
    {
        if (_config["added_tokens_decoder"] is JsonObject decoder)
        {
            return decoder.Select(entry => entry.Value is JsonObject token && int.TryParse(entry.Key, out int id) && Text(token["content"]) is not null
                ? Read(id, token, special: false)
                : throw Fault("tokenizer_config.json", $"added_tokens_decoder has the entry \"{entry.Key}\": {entry.Value?.ToJsonString() ?? "null"}; expected an id and its token with \"content\".")).OrderBy(token => token.Id);
        }

        HashSet<string> special = [.. RoleTokens(kind).Values.Concat(FurtherTokens()).Select(token => token.Content)];
        return (Optional("added_tokens.json") ?? []).Select(entry => entry.Value is JsonValue value && value.TryGetValue(out int id)
            ? new AddedToken(id, entry.Key) { Special = special.Contains(entry.Key), Normalized = !special.Contains(entry.Key) }
            : throw Fault("added_tokens.json", $"the token '{entry.Key}' has no whole number as id.")).OrderBy(token => token.Id);
    }

    private Dictionary<string, AddedToken> RoleTokens(BpeTokenizerClass kind)
    {
        JsonObject? map = Optional("special_tokens_map.json");
        var tokens = new Dictionary<string, AddedToken>();
        foreach (string role in (string[])["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"])
        {
            // A role that is there and null is no token, whatever the class's own would be.
            JsonNode? value = _config.ContainsKey(role) ? _config[role] : map?[role];
            if (value is null && !_config.ContainsKey(role))
            {
                value = kind.Defaults.FirstOrDefault(entry => entry.Role == role).Token;
            }

            if (ReadSpecial(value) is { } token)
            {
                tokens[role] = role == "mask_token" && kind.EnclosesText && value is JsonValue ? token with { StripLeft = true } : token;
            }
        }

        return tokens;
    }

    private IEnumerable<AddedToken> FurtherTokens()
    {
        JsonObject? map = Optional("special_tokens_map.json");
        JsonNode? list = _config["additional_special_tokens"] ?? _config["extra_special_tokens"] ?? map?["additional_special_tokens"];
        return (list as JsonArray ?? []).Select(ReadSpecial).OfType<AddedToken>();
    }

    private static AddedToken? ReadSpecial(JsonNode? value) => value switch
    {
        JsonObject token when Text(token["content"]) is not null => Read(-1, token, special: true),
        _ when Text(value) is { Length: > 0 } content => new AddedToken(-1, content) { Special = true },
        _ => null,
    };

    private static AddedToken Read(int id, JsonObject token, bool special)
    {
        bool isSpecial = special || IsTrue(token["special"]);
        return new AddedToken(id, Text(token["content"])!)
        {
            Special = isSpecial,
            Normalized = token["normalized"] is null ? !isSpecial : IsTrue(token["normalized"]),
            SingleWord = IsTrue(token["single_word"]),
            StripLeft = IsTrue(token["lstrip"]),
            StripRight = IsTrue(token["rstrip"]),
        };
    }

    private static JsonObject PreTokenizer(BpeTokenizerClass kind, bool prefix)
    {
        JsonObject json = GgufPreTokenizer.Of(kind.CutsAsQwen2 ? "qwen2" : "gpt-2")!.ToJson();
        JsonNode byteLevel = kind.CutsAsQwen2 ? json["pretokenizers"]![1]! : json;
        byteLevel["add_prefix_space"] = prefix;
        return json;
    }

    private JsonObject? Around(SpecialTokens special, AddedTokenBook added) => TemplateJson.Around(
        _roles.AddsBos == true && special.Bos is { } bos ? (bos, added.IdOf(bos)) : null,
        _roles.AddsEos == true && special.Eos is { } eos ? (eos, added.IdOf(eos)) : null);

    private JsonObject Enclosing(Dictionary<string, AddedToken> roles, AddedTokenBook added, bool prefix)
    {
        JsonArray Pair(string role) => roles.TryGetValue(role, out AddedToken? token)
            ? new JsonArray(token.Content, added.IdOf(token.Content))
            : throw Fault("tokenizer_config.json", $"has no {role}, which this tokenizer class puts around a text.");
        return new JsonObject { ["type"] = "RobertaProcessing", ["sep"] = Pair("sep_token"), ["cls"] = Pair("cls_token"), ["trim_offsets"] = true, ["add_prefix_space"] = prefix };
    }

    private bool Flag(string name) => IsTrue(_config[name]);

    private JsonObject? Optional(string name) => File.Exists(Path.Combine(_folder, name)) ? JsonFile.ReadObject(Path.Combine(_folder, name)) : null;

    private MalformedFileException Fault(string file, string message) => new(Path.Combine(_folder, file), message);

    private static string? Content(Dictionary<string, AddedToken> roles, string role) => roles.GetValueOrDefault(role)?.Content;

    private static string? Text(JsonNode? node) => node is JsonValue value && value.TryGetValue(out string? text) ? text : null;

    private static bool IsTrue(JsonNode? node) => node is JsonValue value && value.TryGetValue(out bool flag) && flag;

    private static string Shortened(string text) => text.Length <= 60 ? text : text[..60] + "…";
}
