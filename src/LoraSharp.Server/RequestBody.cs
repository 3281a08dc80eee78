using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Inference;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary>A request's JSON object, read with errors that name the field.</summary>
internal sealed class RequestBody(JsonObject json)
{
    public JsonObject Json { get; } = json;

    public static async Task<RequestBody> ReadAsync(HttpContext context)
    {
        try
        {
            JsonNode? node = await JsonNode.ParseAsync(context.Request.Body, cancellationToken: context.RequestAborted).ConfigureAwait(false);
            return node is JsonObject body ? new RequestBody(body) : throw new ApiError(400, "Expected a JSON object as the request's body.");
        }
        catch (JsonException error)
        {
            throw new ApiError(400, $"The request's body is not valid JSON: {error.Message}");
        }
    }

    public string? Text(string name) => Value(name) is not { } node ? null : node.GetValueKind() == JsonValueKind.String ? node.GetValue<string>() : throw Wrong(name, "a string", node);

    public bool Flag(string name) => Value(name) is { } node && node.GetValueKind() switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Wrong(name, "true or false", node),
    };

    public double? Number(string name, double least, double most)
    {
        if (Value(name) is not { } node)
        {
            return null;
        }

        double number = node.GetValueKind() == JsonValueKind.Number ? node.GetValue<double>() : throw Wrong(name, "a number", node);
        return number >= least && number <= most ? number : throw ApiError.Invalid(name, FormattableString.Invariant($"{name} is {number}. Expected {least} to {most}."));
    }

    public int? Whole(string name, int least, int most) =>
        Number(name, least, most) is not { } number ? null : number == Math.Floor(number) ? (int)number : throw ApiError.Invalid(name, FormattableString.Invariant($"{name} is {number}. Expected a whole number."));

    /// <summary>A string or a list of strings.</summary>
    public IReadOnlyList<string> Texts(string name, int most)
    {
        IReadOnlyList<string> texts = Value(name) switch
        {
            null => [],
            JsonArray list => [.. list.Select(n => n?.GetValueKind() == JsonValueKind.String ? n.GetValue<string>() : throw Wrong(name, "strings", n))],
            JsonNode one => one.GetValueKind() == JsonValueKind.String ? [one.GetValue<string>()] : throw Wrong(name, "a string or a list of strings", one),
        };
        return texts.Count <= most ? texts : throw ApiError.Invalid(name, $"{name} has {texts.Count} entries. Expected at most {most}.");
    }

    /// <summary>Length, ends and sampling, with OpenAI's defaults.</summary>
    public GenerationOptions Generation(int defaultTokens, GenerationConfig defaults)
    {
        int most = Whole("max_completion_tokens", 1, 1 << 20) ?? Whole("max_tokens", 1, 1 << 20) ?? defaultTokens;
        IReadOnlyList<string> stops = Texts("stop", 16);
        if (stops.Any(s => s.Length is 0 or > 1024))
        {
            throw ApiError.Invalid("stop", "A stop string is empty or longer than 1024 characters.");
        }

        return new GenerationOptions
        {
            MaxTokens = most,
            EosTokenIds = [.. defaults.EosTokenIds, .. StopIds()],
            IgnoreEos = Flag("ignore_eos"),
            StopStrings = stops,
            Sampling = new SamplingOptions
            {
                Temperature = Number("temperature", 0, 100) ?? 1,
                TopK = Math.Max(0, Whole("top_k", -1, int.MaxValue) ?? 0),
                TopP = Number("top_p", 1e-9, 1) ?? 1,
                MinP = Number("min_p", 0, 1) ?? 0,
                RepetitionPenalty = Number("repetition_penalty", 0.01, 100) ?? 1,
                FrequencyPenalty = Number("frequency_penalty", -2, 2) ?? 0,
                PresencePenalty = Number("presence_penalty", -2, 2) ?? 0,
                Seed = (long)(Number("seed", long.MinValue, long.MaxValue) ?? Random.Shared.NextInt64()),
            },
        };
    }

    private IEnumerable<int> StopIds() => Value("stop_token_ids") is not { } node ? [] : node is JsonArray list && list.Count <= 64
        ? list.Select(n => n?.GetValueKind() == JsonValueKind.Number && n.AsValue().TryGetValue(out int id) ? id : throw Wrong("stop_token_ids", "token ids", n))
        : throw Wrong("stop_token_ids", "a list of at most 64 token ids", node);

    public JsonNode? Value(string name) => Json.TryGetPropertyValue(name, out JsonNode? node) ? node : null;

    public static ApiError Wrong(string name, string expected, JsonNode? found)
    {
        string text = found?.ToJsonString() ?? "null";
        return ApiError.Invalid(name, $"{name}: expected {expected}, found {(text.Length > 80 ? text[..80] + "…" : text)}.");
    }
}
