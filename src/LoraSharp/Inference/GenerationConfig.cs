using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Inference;

/// <summary>What a model's makers say about generating with it: <c>generation_config.json</c>, or <c>config.json</c> where there is none.</summary>
public sealed record GenerationConfig
{
    /// <summary>Every id that ends a text.</summary>
    public IReadOnlyList<int> EosTokenIds { get; init; } = [];

    /// <summary>Beginning of a text; null where there is none.</summary>
    public int? BosTokenId { get; init; }

    /// <summary>Padding; null where there is none.</summary>
    public int? PadTokenId { get; init; }

    /// <summary>How tokens are chosen unless the user says otherwise: greedy unless <c>do_sample</c> is true.</summary>
    public SamplingOptions Sampling { get; init; } = new();

    /// <summary>Fields that would change the choice of tokens in transformers and are not applied here, as they stand in the file.</summary>
    public IReadOnlyList<string> NotApplied { get; init; } = [];

    // With the value at which a field does nothing; null where only its absence does.
    private static readonly (string Key, double? Neutral)[] Others =
    [
        ("num_beams", 1), ("no_repeat_ngram_size", 0), ("encoder_no_repeat_ngram_size", 0), ("encoder_repetition_penalty", 1), ("min_length", 0), ("min_new_tokens", 0),
        ("typical_p", 1), ("epsilon_cutoff", 0), ("eta_cutoff", 0), ("top_h", null), ("guidance_scale", 1), ("penalty_alpha", 0), ("suppress_tokens", null),
        ("begin_suppress_tokens", null), ("bad_words_ids", null), ("sequence_bias", null), ("forced_bos_token_id", null), ("forced_eos_token_id", null),
        ("exponential_decay_length_penalty", null), ("stop_strings", null), ("watermarking_config", null), ("dola_layers", null),
    ];

    /// <summary>Reads it from a model's folder.</summary>
    /// <exception cref="MalformedFileException">The file is no JSON object, or a value has the wrong type.</exception>
    public static GenerationConfig Read(ModelSource source)
    {
        ArgumentNullException.ThrowIfNull(source);
        string? path = source.FindFile("generation_config.json");
        JsonObject own = path is null ? [] : JsonFile.ReadObject(path);
        string location = path ?? source.Location;
        bool sample = own["do_sample"]?.GetValueKind() == JsonValueKind.True;
        return new GenerationConfig
        {
            EosTokenIds = Ids(own["eos_token_id"] ?? source.Config["eos_token_id"], "eos_token_id", location),
            BosTokenId = Ids(own["bos_token_id"] ?? source.Config["bos_token_id"], "bos_token_id", location).Cast<int?>().FirstOrDefault(),
            PadTokenId = Ids(own["pad_token_id"] ?? source.Config["pad_token_id"], "pad_token_id", location).Cast<int?>().FirstOrDefault(),
            NotApplied = [.. Others.Where(o => own[o.Key] is { } node && !IsNeutral(node, o.Neutral)).Select(o => $"{o.Key} {own[o.Key]!.ToJsonString()}")],
            Sampling = new SamplingOptions
            {
                Temperature = sample ? Number("temperature", 1) : 0,
                TopK = sample ? (int)Number("top_k", 50) : 0,
                TopP = sample ? Number("top_p", 1) : 1,
                MinP = sample ? Number("min_p", 0) : 0,
                RepetitionPenalty = Number("repetition_penalty", 1),
            },
        };

        double Number(string key, double fallback) => own[key] switch
        {
            null => fallback,
            JsonValue value when value.GetValueKind() == JsonValueKind.Number => value.GetValue<double>(),
            JsonNode other => throw new MalformedFileException(location, $"'{key}': expected a number, found {other.ToJsonString()}."),
        };
    }

    private static bool IsNeutral(JsonNode node, double? neutral) => node switch
    {
        JsonArray list => list.Count == 0,
        JsonObject map => map.Count == 0,
        _ => node.GetValueKind() == JsonValueKind.Number && node.GetValue<double>() == neutral,
    };

    private static IReadOnlyList<int> Ids(JsonNode? node, string key, string location)
    {
        try
        {
            return node switch
            {
                null => [],
                JsonArray list => [.. list.Select(n => n!.GetValue<int>())],
                _ => [node.GetValue<int>()],
            };
        }
        catch (Exception error) when (error is InvalidOperationException or FormatException or NullReferenceException)
        {
            throw new MalformedFileException(location, $"'{key}': expected a token id or a list of them, found {node!.ToJsonString()}.", error);
        }
    }
}
