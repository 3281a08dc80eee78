using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Layers;

namespace LoraSharp.Models;

/// <summary>
/// Rotary positions out of <c>config.json</c>: <c>rope_parameters</c> as transformers 5 writes it (one object, or one a
/// layer type), or <c>rope_theta</c>, <c>rope_scaling</c> and <c>rope_local_base_freq</c> as transformers 4 did.
/// </summary>
internal sealed class RopeReader
{
    private static readonly HashSet<string> Known = new(StringComparer.Ordinal)
    {
        "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor", "partial_rotary_factor", "finetuned",
    };

    private readonly ConfigReader _reader;
    private readonly DecoderFamily _family;
    private readonly int _headSize;
    private readonly int _maxPositions;

    public RopeReader(ConfigReader reader, DecoderFamily family, int headSize, int maxPositions)
    {
        _reader = reader;
        _family = family;
        _headSize = headSize;
        _maxPositions = maxPositions;
    }

    /// <summary>The rotary positions of each layer type (<c>full_attention</c>, <c>sliding_attention</c>).</summary>
    public IReadOnlyDictionary<string, RopeSpec> Read()
    {
        double partial = _reader.Number("partial_rotary_factor", _family.PartialRotary ?? 1);
        double theta = _reader.Number("rope_theta", _family.Theta);
        int? original = _reader.IntOrNull("original_max_position_embeddings");
        JsonObject? parameters = Object("rope_parameters");
        JsonObject? scaling = Object("rope_scaling");
        double? local = _reader.NumberOrNull("rope_local_base_freq");

        // Where both are there, transformers takes the older one.
        JsonObject? full = scaling is { Count: > 0 } ? scaling : parameters;
        JsonObject? sliding = _family.StretchesFullAttentionOnly ? null : full;
        double? shared = _family.StretchesFullAttentionOnly && full?["rope_theta"] is JsonValue v && v.GetValueKind() == JsonValueKind.Number ? v.GetValue<double>() : null;
        if (parameters is not null && parameters.ContainsKey("full_attention"))
        {
            full = scaling is { Count: > 0 } ? scaling : parameters["full_attention"] as JsonObject;
            sliding = parameters["sliding_attention"] as JsonObject;
            original = null;
        }

        return new Dictionary<string, RopeSpec>(StringComparer.Ordinal)
        {
            [LayerTypes.Full] = Spec(full, theta, partial, original),
            [LayerTypes.Sliding] = Spec(sliding, local ?? _family.LocalTheta ?? shared ?? theta, partial, original),
        };
    }

    private RopeSpec Spec(JsonObject? json, double theta, double partial, int? original)
    {
        double Number(string key, double fallback) => json?[key] is JsonValue v && v.GetValueKind() == JsonValueKind.Number ? v.GetValue<double>() : fallback;
        bool Has(string key) => json?[key] is not null;
        string type = (json?["rope_type"] ?? json?["type"])?.ToString() ?? "default";
        if (json is not null)
        {
            foreach (string key in json.Select(p => p.Key).Where(k => !Known.Contains(k)))
            {
                _reader.Fault($"rope parameter '{key}': {json[key]?.ToJsonString()} is not implemented");
            }
        }

        RopeScaling scaling = type switch
        {
            "default" => RopeScaling.Default,
            "linear" => RopeScaling.Linear,
            "dynamic" => RopeScaling.Dynamic,
            "llama3" => RopeScaling.Llama3,
            "yarn" => RopeScaling.Yarn,
            "longrope" or "su" => RopeScaling.LongRope,
            _ => Unknown(type),
        };
        int dimensions = _family.PartialRotary is null ? _headSize : (int)(_headSize * Number("partial_rotary_factor", partial));
        var spec = new RopeSpec
        {
            Scaling = scaling,
            Theta = Number("rope_theta", theta),
            Dimensions = dimensions,
            Interleaved = _family.InterleavedRope,

            // Beside the scaling it counts for more than in it.
            OriginalMaxPositions = original ?? (int)Number("original_max_position_embeddings", _maxPositions),
            LowFrequencyFactor = Number("low_freq_factor", 1),
            HighFrequencyFactor = Number("high_freq_factor", 4),
            BetaFast = Number("beta_fast", 0) is > 0 and var fast ? fast : 32,
            BetaSlow = Number("beta_slow", 0) is > 0 and var slow ? slow : 1,
            Truncate = json?["truncate"]?.GetValueKind() != JsonValueKind.False,
        };
        if (scaling != RopeScaling.Default && scaling is not (RopeScaling.LongRope or RopeScaling.Yarn) && !Has("factor"))
        {
            _reader.Fault($"rope type '{type}': missing 'factor'");
        }

        double factor = Number("factor", scaling is RopeScaling.LongRope or RopeScaling.Yarn ? (double)_maxPositions / spec.OriginalMaxPositions : 1);
        spec = spec with { Factor = factor, OriginalMaxPositions = scaling == RopeScaling.Dynamic ? _maxPositions : spec.OriginalMaxPositions };
        return scaling switch
        {
            RopeScaling.Yarn => spec with { AttentionFactor = Number("attention_factor", YarnFactor(factor, Number("mscale", 0), Number("mscale_all_dim", 0))) },
            RopeScaling.LongRope => LongRope(spec, json!, Number("attention_factor", 0)),
            _ => spec,
        };
    }

    private RopeSpec LongRope(RopeSpec spec, JsonObject json, double attentionFactor)
    {
        if (attentionFactor == 0)
        {
            attentionFactor = spec.Factor <= 1 ? 1 : Math.Sqrt(1 + (Math.Log(spec.Factor) / Math.Log(spec.OriginalMaxPositions)));
        }

        return spec with { AttentionFactor = attentionFactor, ShortFactors = Factors("short_factor"), LongFactors = Factors("long_factor") };

        IReadOnlyList<double> Factors(string key)
        {
            if (json[key] is JsonArray array && array.Count == spec.Rotated / 2 && array.All(n => n?.GetValueKind() == JsonValueKind.Number))
            {
                return [.. array.Select(n => n!.GetValue<double>())];
            }

            _reader.Fault($"rope parameter '{key}': expected {spec.Rotated / 2} numbers, found {(json[key] as JsonArray)?.Count.ToString() ?? "none"}");
            return [.. Enumerable.Repeat(1.0, spec.Rotated / 2)];
        }
    }

    private RopeScaling Unknown(string type)
    {
        _reader.Fault($"rope type '{type}' is not implemented; expected default, linear, dynamic, llama3, yarn or longrope");
        return RopeScaling.Default;
    }

    private JsonObject? Object(string key)
    {
        JsonNode? node = _reader.Find(key);
        if (node is not null and not JsonObject)
        {
            _reader.Fault($"'{key}': expected an object, found {node.ToJsonString()}");
        }

        return node as JsonObject;
    }

    // YaRN, section 3.4; the two 'mscale's are DeepSeek's.
    private static double YarnFactor(double factor, double mscale, double allDimensions) =>
        mscale != 0 && allDimensions != 0
            ? YarnTemperature(factor, mscale) / YarnTemperature(factor, allDimensions)
            : YarnTemperature(factor, 1);

    /// <summary>0.1·m·ln(factor) + 1.</summary>
    internal static double YarnTemperature(double factor, double mscale) => factor <= 1 ? 1 : (0.1 * mscale * Math.Log(factor)) + 1;
}

/// <summary>Values of <c>layer_types</c>.</summary>
internal static class LayerTypes
{
    public const string Full = "full_attention";
    public const string Sliding = "sliding_attention";
}
