using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>A config.json read for export, with errors that name the key.</summary>
internal sealed class GgufModelConfig(string location, JsonObject config)
{
    public string Location { get; } = location;

    public JsonObject Json { get; } = config;

    /// <summary>What the file will hold but llama.cpp will not do, for the user to know.</summary>
    public List<string> Warnings { get; } = [];

    public bool Has(string key) => Json[key] is not null;

    public int Integer(string key) => IntegerOrNull(key) ?? throw Missing(key);

    public int? IntegerOrNull(string key) => NumberOrNull(key) switch
    {
        null => null,
        double value when value == Math.Truncate(value) && Math.Abs(value) <= int.MaxValue => (int)value,
        double value => throw new MalformedFileException(Location, $"config.json: {key} is {value}, expected a whole number."),
    };

    public double Number(string key) => NumberOrNull(key) ?? throw Missing(key);

    public double? NumberOrNull(string key) => Number(Json, key);

    public bool? FlagOrNull(string key) => Json[key] switch
    {
        null => null,
        JsonValue value when value.TryGetValue(out bool flag) => flag,
        JsonNode other => throw new MalformedFileException(Location, $"config.json: {key} is {other.ToJsonString()}, expected true or false."),
    };

    public string? TextOrNull(string key) => Json[key] is JsonValue value && value.TryGetValue(out string? text) ? text : null;

    /// <summary>A number of a nested object, e.g. of rope_scaling.</summary>
    public double? Number(JsonObject of, string key) => of[key] switch
    {
        null => null,
        JsonValue value when value.GetValueKind() == JsonValueKind.Number => value.Deserialize<double>(),
        JsonNode other => throw new MalformedFileException(Location, $"config.json: {key} is {other.ToJsonString()}, expected a number."),
    };

    public int HeadSize(GgufArchitecture architecture) => (architecture.HeadSizeKey is { } key ? IntegerOrNull(key) : null)
        ?? Integer(Alias("hidden_size", "n_embd")) / Integer(Alias("num_attention_heads", "n_head"));

    /// <summary>The first of two names that config.json has.</summary>
    public string Alias(string name, string other) => Has(name) ? name : other;

    private MalformedFileException Missing(string key) => new(Location, $"config.json has no {key}, which the export needs.");
}
