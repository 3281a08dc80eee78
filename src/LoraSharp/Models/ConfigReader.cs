using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;

namespace LoraSharp.Models;

/// <summary>
/// Reads <c>config.json</c> strictly: what is missing, of the wrong type, or would change the arithmetic in a way that
/// is not implemented is collected, and <see cref="ThrowIfFaulty"/> names all of it at once.
/// </summary>
internal sealed class ConfigReader
{
    private readonly JsonObject _json;
    private readonly string _location;
    private readonly IReadOnlyDictionary<string, string> _aliases;
    private readonly IReadOnlyDictionary<string, double> _defaults;
    private readonly HashSet<string> _read = new(StringComparer.Ordinal) { "model_type" };
    private readonly List<string> _faults = [];

    /// <summary>Creates a reader.</summary>
    /// <param name="json">The configuration.</param>
    /// <param name="location">Where it comes from, for messages.</param>
    /// <param name="family">Its own names of common keys, e.g. <c>hidden_size</c> → <c>n_embd</c>, and what keys are when they are missing.</param>
    public ConfigReader(JsonObject json, string location, DecoderFamily family)
    {
        _json = json;
        _location = location;
        _aliases = family.Aliases;
        _defaults = family.Defaults;
    }

    /// <summary>Whether the key is there with something else than null.</summary>
    public bool Has(string key) => Find(key) is not null;

    /// <summary>The node under the key, or null.</summary>
    public JsonNode? Find(string key)
    {
        // As transformers' attribute_map has it, both names are one attribute; what is imported from GGUF states both.
        string name = _aliases.GetValueOrDefault(key, key);
        _read.Add(name);
        _read.Add(key);
        return _json.ContainsKey(name) || _json.ContainsKey(key) ? _json[name] ?? _json[key]
            : _defaults.TryGetValue(key, out double value) ? JsonValue.Create(value)
            : null;
    }

    /// <summary>A whole number above zero that must be there.</summary>
    public int Int(string key)
    {
        if (!Has(key))
        {
            _faults.Add($"missing: '{_aliases.GetValueOrDefault(key, key)}' (a whole number)");
            return 1;
        }

        return Int(key, 1);
    }

    /// <summary>A whole number, or the default where the key is missing or null.</summary>
    public int Int(string key, int fallback)
    {
        double value = Number(key, fallback);
        if (value != Math.Floor(value) || value < 0 || value > int.MaxValue)
        {
            _faults.Add($"'{key}': expected a whole number, found {Find(key)?.ToJsonString()}");
            return Math.Max(1, fallback);
        }

        return (int)value;
    }

    /// <summary>A whole number, or null.</summary>
    public int? IntOrNull(string key) => Has(key) ? Int(key, 1) : null;

    /// <summary>A number, or the default.</summary>
    public double Number(string key, double fallback)
    {
        JsonNode? node = Find(key);
        if (node is null)
        {
            return fallback;
        }

        if (node.GetValueKind() == JsonValueKind.Number && double.TryParse(node.ToJsonString(), NumberStyles.Float, CultureInfo.InvariantCulture, out double value))
        {
            return value;
        }

        _faults.Add($"'{key}': expected a number, found {node.ToJsonString()}");
        return fallback;
    }

    /// <summary>A number, or null.</summary>
    public double? NumberOrNull(string key) => Has(key) ? Number(key, 0) : null;

    /// <summary>true or false, or the default.</summary>
    public bool Flag(string key, bool fallback)
    {
        JsonNode? node = Find(key);
        switch (node?.GetValueKind())
        {
            case null: return fallback;
            case JsonValueKind.True: return true;
            case JsonValueKind.False: return false;
            default:
                _faults.Add($"'{key}': expected true or false, found {node.ToJsonString()}");
                return fallback;
        }
    }

    /// <summary>A text, or the default.</summary>
    public string Text(string key, string fallback)
    {
        JsonNode? node = Find(key);
        if (node is null)
        {
            return fallback;
        }

        if (node.GetValueKind() == JsonValueKind.String)
        {
            return node.GetValue<string>();
        }

        _faults.Add($"'{key}': expected a text, found {node.ToJsonString()}");
        return fallback;
    }

    /// <summary>A list of the given length, or null where the key is missing.</summary>
    public IReadOnlyList<JsonNode?>? List(string key, int? length = null)
    {
        JsonNode? node = Find(key);
        if (node is null)
        {
            return null;
        }

        if (node is JsonArray array && (length is null || array.Count >= length))
        {
            return [.. array];
        }

        _faults.Add($"'{key}': expected a list{(length is null ? string.Empty : $" of {length}")}, found {node.ToJsonString()}");
        return null;
    }

    /// <summary>Passes over keys of these very names, which repeat what others say, or which transformers' class of the family does not read, though checkpoints have them.</summary>
    public void Skip(params ReadOnlySpan<string> keys)
    {
        foreach (string key in keys)
        {
            _read.Add(key);
        }
    }

    /// <summary>Records a fault found by the family.</summary>
    public void Fault(string message) => _faults.Add(message);

    /// <summary>Records a value that changes the arithmetic and is not implemented, when the key has another than <paramref name="neutral"/>.</summary>
    public void Unsupported(string key, JsonNode? neutral, string? why = null)
    {
        JsonNode? node = Find(key);
        if (node is not null && !JsonNode.DeepEquals(node, neutral))
        {
            _faults.Add($"'{key}': {node.ToJsonString()} is not supported{(why is null ? string.Empty : $" ({why})")}; expected {neutral?.ToJsonString() ?? "null"} or no such key");
        }
    }

    /// <summary>How many faults there are, the keys nobody read included.</summary>
    public int CountFaults() => _faults.Count + _json.Count(p => !_read.Contains(p.Key) && ConfigKeys.MayChangeArithmetic(p.Key, p.Value));

    /// <summary>Fails with every fault, and with every key nobody read that looks as if it changed the arithmetic.</summary>
    public void ThrowIfFaulty(string family)
    {
        foreach ((string key, JsonNode? value) in _json)
        {
            if (!_read.Contains(key) && ConfigKeys.MayChangeArithmetic(key, value))
            {
                _faults.Add($"'{key}': {Short(value)} is not implemented for model type '{family}'");
            }
        }

        if (_faults.Count > 0)
        {
            throw new LoraSharpException($"{_location}: config.json does not describe a model that can be built ({_faults.Count} faults):\n  {string.Join("\n  ", _faults)}");
        }
    }

    private static string Short(JsonNode? node)
    {
        string text = node?.ToJsonString() ?? "null";
        return text.Length <= 80 ? text : text[..77] + "...";
    }
}
