using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Inference;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary><c>POST /v1/embeddings</c>: vectors of texts or token ids, by the base or an adapter.</summary>
internal sealed class EmbeddingsEndpoint(ServedModel model)
{
    private const int MostInputs = 2048;

    public async Task HandleAsync(HttpContext context)
    {
        RequestBody body = await RequestBody.ReadAsync(context).ConfigureAwait(false);
        var scope = RequestScope.Of(context);
        string? adapter = scope.Choose(body.Text("model"));
        bool packed = body.Text("encoding_format") switch
        {
            null or "float" => false,
            "base64" => true,
            _ => throw RequestBody.Wrong("encoding_format", "float or base64", body.Value("encoding_format")!.Value),
        };

        // vLLM's name for a choice that OpenAI leaves to the model.
        EmbeddingPooling pooling = body.Text("pooling") switch
        {
            null or "mean" => EmbeddingPooling.Mean,
            "last" => EmbeddingPooling.Last,
            _ => throw RequestBody.Wrong("pooling", "mean or last", body.Value("pooling")!.Value),
        };
        List<int[]> inputs = Inputs(body);
        int? dimensions = body.Whole("dimensions", 1, int.MaxValue);
        scope.Admit(inputs);
        IReadOnlyList<float[]> vectors = await scope.EmbedAsync(new EmbeddingRequest { Inputs = inputs, Adapter = adapter, Pooling = pooling, Dimensions = dimensions }, context.RequestAborted).ConfigureAwait(false);
        int tokens = inputs.Sum(i => i.Length);
        await JsonBody.WriteAsync(context, new JsonObject
        {
            ["object"] = "list",
            ["data"] = new JsonArray([.. vectors.Select((v, i) => (JsonNode)new JsonObject { ["object"] = "embedding", ["index"] = i, ["embedding"] = packed ? Pack(v) : new JsonArray([.. v.Select(x => (JsonNode)x)]) })]),
            ["model"] = scope.Model,
            ["usage"] = new JsonObject { ["prompt_tokens"] = tokens, ["total_tokens"] = tokens },
        }).ConfigureAwait(false);
    }

    // Little-endian float32, as numpy writes them.
    private static string Pack(float[] vector) => Convert.ToBase64String(MemoryMarshal.AsBytes<float>(vector));

    private List<int[]> Inputs(RequestBody body)
    {
        JsonElement input = body.Value("input") ?? throw ApiError.Invalid("input", "input is missing.");
        if (input.ValueKind == JsonValueKind.String)
        {
            return [Encode(input, "input")];
        }

        if (input.ValueKind != JsonValueKind.Array || input.GetArrayLength() == 0)
        {
            throw RequestBody.Wrong("input", "a text, token ids, or a list of either", input);
        }

        return input[0].ValueKind == JsonValueKind.Number
            ? [[.. body.Wholes("input", model.Engine.MaxLength)]]
            : [.. RequestBody.Counted("input", input, MostInputs).Select((one, i) => one.ValueKind == JsonValueKind.Array ? Ids(one, $"input[{i}]") : Encode(one, $"input[{i}]"))];
    }

    private int[] Encode(JsonElement text, string at)
    {
        if (model.Tokenizer is null)
        {
            throw ApiError.Invalid("input", "The model has no tokenizer: give token ids.");
        }

        int[] ids = text.ValueKind == JsonValueKind.String ? model.Tokenizer.Encode(text.GetString()!) : throw RequestBody.Wrong(at, "a text or token ids", text);
        return ids.Length > 0 ? ids : throw ApiError.Invalid("input", $"{at} is empty.");
    }

    private int[] Ids(JsonElement list, string at) => list.GetArrayLength() == 0
        ? throw ApiError.Invalid("input", $"{at} is empty.")
        : [.. RequestBody.Counted(at, list, model.Engine.MaxLength).Select(n => n.ValueKind == JsonValueKind.Number && n.TryGetInt32(out int id) ? id : throw RequestBody.Wrong(at, "token ids", n))];
}
