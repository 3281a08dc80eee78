using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization.Patterns;
using LoraSharp.Formats.Tokenization.PostProcessors;
using LoraSharp.Formats.Tokenization.PreTokenizers;

namespace LoraSharp.Formats.Tokenization;

/// <summary>The JSON object of one component, with errors that say which field of which component is at fault.</summary>
internal sealed class Component
{
    private readonly JsonObject _json;
    private readonly string _role;
    private readonly string _source;

    public Component(JsonNode node, string role, string source)
    {
        (_role, _source) = (role, source);
        _json = node as JsonObject ?? throw Fault("is no object");
        Type = _json["type"] is JsonValue type && type.TryGetValue(out string? name) ? name : throw Fault("has no \"type\"");
    }

    public string Type { get; }

    public MalformedFileException Unknown(string known) =>
        new(_source, $"{_role} type '{Type}' is not known to this version. Expected one of {known}.");

    public bool Flag(string name, bool? fallback = null) => OptionalFlag(name) ?? fallback ?? throw Fault($"has no \"{name}\"");

    public bool? OptionalFlag(string name) => _json[name] switch
    {
        null => null,
        JsonValue value when value.TryGetValue(out bool flag) => flag,
        _ => throw Fault($"has a \"{name}\" that is neither true nor false"),
    };

    public int Number(string name, int fallback) => _json[name] switch
    {
        null => fallback,
        JsonValue value when value.TryGetValue(out int number) && number >= 0 => number,
        _ => throw Fault($"has a \"{name}\" that is no whole number"),
    };

    public string Text(string name) => _json[name] is JsonValue value && value.TryGetValue(out string? text) ? text : throw Fault($"has no text \"{name}\"");

    public List<T> Children<T>(string name, Func<JsonNode, T> read)
    {
        JsonArray children = _json[name] as JsonArray ?? throw Fault($"has no list \"{name}\"");
        return [.. children.Select(child => read(child ?? throw Fault($"has a null in \"{name}\"")))];
    }

    public TextPattern Pattern()
    {
        if (_json["pattern"] is JsonValue plain && plain.TryGetValue(out string? text))
        {
            return new LiteralPattern(text);
        }

        JsonObject pattern = _json["pattern"] as JsonObject ?? throw Fault("has no \"pattern\"");
        if (pattern["String"] is { } literal)
        {
            return new LiteralPattern((string)literal!);
        }

        if (pattern["Regex"] is not { } expression)
        {
            throw Fault("has a \"pattern\" that is neither String nor Regex");
        }

        return BpeWordPattern.For((string)expression!) as TextPattern ?? new RegexPattern((string)expression!, _source);
    }

    public SplitBehavior Behavior(SplitBehavior? fallback)
    {
        if (_json["behavior"] is null && fallback is { } value)
        {
            return value;
        }

        string name = Text("behavior");
        return Enum.TryParse(name, out SplitBehavior behavior) && Enum.IsDefined(behavior)
            ? behavior
            : throw Fault($"has the behavior '{name}'; expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
    }

    public PrependScheme PrependScheme()
    {
        // Before prepend_scheme there was add_prefix_space.
        if (_json["prepend_scheme"] is null)
        {
            return Flag("add_prefix_space", true) ? PreTokenizers.PrependScheme.Always : PreTokenizers.PrependScheme.Never;
        }

        return Text("prepend_scheme") switch
        {
            "always" => PreTokenizers.PrependScheme.Always,
            "first" => PreTokenizers.PrependScheme.First,
            "never" => PreTokenizers.PrependScheme.Never,
            SentencePieceConverter.StartScheme => PreTokenizers.PrependScheme.Start,
            string other => throw Fault($"has the prepend_scheme '{other}'; expected always, first or never"),
        };
    }

    public TemplatePiece TokenPair(string name) =>
        _json[name] is JsonArray { Count: 2 } pair && pair[0] is JsonValue text && text.TryGetValue(out string? token) && pair[1] is JsonValue number && number.TryGetValue(out int id)
            ? new TemplatePiece(-1, [id], [token])
            : throw Fault($"has no [token, id] \"{name}\"");

    /// <summary>A template for so many texts. The one for pairs may be missing: only a sequence of templates needs it.</summary>
    public List<TemplatePiece> Template(string name, int texts)
    {
        JsonObject special = _json["special_tokens"] as JsonObject ?? [];
        JsonArray? template = _json[name] as JsonArray;
        if (template is null && texts == 1)
        {
            throw Fault($"has no list \"{name}\"");
        }

        return [.. (template ?? []).Select(entry => entry?["Sequence"] is { } text ? TextPiece(text, name, texts) : SpecialPiece(entry, name, special))];
    }

    private TemplatePiece TextPiece(JsonNode text, string name, int texts) => (string?)text["id"] switch
    {
        "A" => TemplatePiece.First,
        "B" when texts == 2 => TemplatePiece.Second,
        string other => throw Fault($"uses the text '{other}' in \"{name}\"; expected {(texts == 1 ? "A" : "A or B")}"),
        null => throw Fault($"has a Sequence without \"id\" in \"{name}\""),
    };

    private TemplatePiece SpecialPiece(JsonNode? entry, string name, JsonObject special)
    {
        string content = (string?)entry?["SpecialToken"]?["id"] ?? throw Fault($"has an entry of \"{name}\" that is neither Sequence nor SpecialToken");
        JsonObject token = special[content] as JsonObject ?? throw Fault($"uses '{content}', which \"special_tokens\" lacks");
        int[] ids = [.. (token["ids"] as JsonArray ?? throw Fault($"has no list of ids for '{content}'"))
            .Select(node => node is JsonValue number && number.TryGetValue(out int id) ? id : throw Fault($"has an id of '{content}' that is no whole number"))];
        string[] tokens = [.. (token["tokens"] as JsonArray ?? []).Select(text => (string?)text ?? content)];
        return new TemplatePiece(-1, ids, tokens.Length == ids.Length ? tokens : [.. ids.Select(_ => content)]);
    }

    private MalformedFileException Fault(string message) => new(_source, $"{_role} {Type ?? ""} {message}.");
}
