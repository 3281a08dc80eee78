using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Inference;

namespace LoraSharp.Server;

/// <summary>Length, ends and sampling of a request, under the names and with the defaults that OpenAI and vLLM have.</summary>
internal static class SamplingFields
{
    private const int MostStops = 16;
    private const int LongestStop = 1024;
    private const int MostStopIds = 64;
    private const int MostBiases = 1024;
    private const double LargestBias = 100;

    // OpenAI takes 0, which leaves the likeliest token.
    private const double LeastTopP = 1e-9;

    // Asked for and not there: better refused than silently left out.
    private static readonly string[] NotThere = ["suffix", "best_of", "use_beam_search", "prompt_logprobs", "min_tokens", "length_penalty", "functions", "function_call", "audio", "prediction", "web_search_options", "include_stop_str_in_output", "truncate_prompt_tokens", "bad_words", "allowed_token_ids", "continue_final_message"];

    public static GenerationOptions Read(RequestBody body, int defaultTokens, int leastTokens, GenerationConfig defaults)
    {
        RefuseContradictions(body);
        IReadOnlyList<string> stops = body.Texts("stop", MostStops);
        if (stops.Any(s => s.Length is 0 or > LongestStop))
        {
            throw ApiError.Invalid("stop", $"A stop string is empty or longer than {LongestStop} characters.");
        }

        return new GenerationOptions
        {
            MaxTokens = body.Whole("max_completion_tokens", leastTokens, 1 << 24) ?? body.Whole("max_tokens", leastTokens, 1 << 24) ?? defaultTokens,

            // ignore_eos is about the model's own ends; those that were asked for hold.
            EosTokenIds = [.. body.Flag("ignore_eos") ? [] : defaults.EosTokenIds, .. body.Wholes("stop_token_ids", MostStopIds)],
            StopStrings = stops,
            SkipSpecialTokens = !body.Has("skip_special_tokens") || body.Flag("skip_special_tokens"),
            Sampling = new SamplingOptions
            {
                Temperature = body.Number("temperature", 0, 100) ?? 1,
                TopK = Math.Max(0, body.Whole("top_k", -1, int.MaxValue) ?? 0),
                TopP = Math.Max(LeastTopP, body.Number("top_p", 0, 1) ?? 1),
                MinP = body.Number("min_p", 0, 1) ?? 0,
                RepetitionPenalty = body.Number("repetition_penalty", 0.01, 100) ?? 1,
                FrequencyPenalty = body.Number("frequency_penalty", -2, 2) ?? 0,
                PresencePenalty = body.Number("presence_penalty", -2, 2) ?? 0,
                LogitBias = Biases(body),
                Seed = body.Long("seed") ?? Random.Shared.NextInt64(),
            },
        };
    }

    /// <summary>Whether a stream ends with what was used.</summary>
    public static bool WantsUsage(RequestBody body) => body.Object("stream_options")?["include_usage"] switch
    {
        null => false,
        JsonValue value when value.GetValueKind() is JsonValueKind.True or JsonValueKind.False => value.GetValue<bool>(),
        { } other => throw RequestBody.Wrong("stream_options.include_usage", "true or false", other),
    };

    private static Dictionary<int, double>? Biases(RequestBody body)
    {
        if (body.Value("logit_bias") is not { } value)
        {
            return null;
        }

        var biases = new Dictionary<int, double>();
        foreach (JsonProperty one in value.ValueKind == JsonValueKind.Object ? value.EnumerateObject() : throw RequestBody.Wrong("logit_bias", "an object of token ids and numbers", value))
        {
            biases[int.TryParse(one.Name, NumberStyles.None, CultureInfo.InvariantCulture, out int id) ? id : throw ApiError.Invalid("logit_bias", $"logit_bias: '{ApiError.Shorten(one.Name)}' is no token id.")] =
                one.Value.ValueKind == JsonValueKind.Number && one.Value.TryGetDouble(out double bias) && Math.Abs(bias) <= LargestBias ? bias : throw RequestBody.Wrong("logit_bias", $"numbers of -{LargestBias} to {LargestBias}", one.Value);
        }

        return biases.Count <= MostBiases ? biases : throw ApiError.Invalid("logit_bias", $"logit_bias has {biases.Count} entries. Expected at most {MostBiases}.");
    }

    private static void RefuseContradictions(RequestBody body)
    {
        if (NotThere.FirstOrDefault(n => body.Value(n) is { } value && !IsNothing(n, value)) is { } missing)
        {
            throw new ApiError(400, $"{missing} is not supported.", missing, "unsupported_parameter");
        }

        if (body.Has("max_tokens") && body.Has("max_completion_tokens") && body.Whole("max_tokens", 0, int.MaxValue) != body.Whole("max_completion_tokens", 0, int.MaxValue))
        {
            throw ApiError.Invalid("max_tokens", "max_tokens and max_completion_tokens are both given and differ. Give one.");
        }

        if (body.Has("stream_options") && !body.Flag("stream"))
        {
            throw ApiError.Invalid("stream_options", "stream_options is given without stream: true.");
        }

        if (body.Number("temperature", 0, 100) == 0 && body.Whole("n", 1, int.MaxValue) > 1)
        {
            throw ApiError.Invalid("n", "n is more than 1 with temperature 0: all choices would be the same.");
        }
    }

    private static bool IsNothing(string name, JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.False => true,
        JsonValueKind.String => value.GetString()!.Length == 0,
        JsonValueKind.Array => value.GetArrayLength() == 0,
        JsonValueKind.Number => value.GetDouble() == (name is "best_of" or "length_penalty" ? 1 : 0),
        _ => false,
    };
}
