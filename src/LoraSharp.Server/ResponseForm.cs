using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Inference;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Server;

/// <summary>
/// The form that a request asks its answer to have: OpenAI's <c>response_format</c>, vLLM's <c>structured_outputs</c> and its
/// older <c>guided_json</c>, <c>guided_regex</c> and <c>guided_choice</c>.
/// </summary>
internal static class ResponseForm
{
    private const int MostChoices = 1000;

    private static readonly string[] Fields = ["response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structural_tag"];

    /// <summary>The options with the form that the request asks for, if it does.</summary>
    /// <exception cref="ApiError">The form is malformed, not supported, or there are two.</exception>
    public static GenerationOptions Apply(GenerationOptions options, RequestBody body, ServedModel model)
    {
        string[] given = [.. Fields.Where(body.Has).Where(f => f != "response_format" || TypeOf(body.Object(f)!) != "text")];
        if (given.Length > 1)
        {
            throw ApiError.Invalid(given[1], $"{given[0]} and {given[1]} both ask for a form of the answer. Give one.");
        }

        return given is [var field] ? options with { Sampling = options.Sampling with { Constraint = Located(field, () => Read(field, body, model)) } } : options;
    }

    private static TokenConstraint Read(string field, RequestBody body, ServedModel model) => field switch
    {
        "response_format" => OfFormat(body.Object(field)!, model),
        "structured_outputs" => OfOutputs(body.Object(field)!, model),
        "guided_json" => model.Constraints.Json(Schema(field, JsonNode.Parse(body.Value(field)!.Value.GetRawText()))),
        "guided_regex" => model.Constraints.Regex(body.Text(field)!),
        "guided_choice" => model.Constraints.OneOf(body.Texts(field, MostChoices)),
        _ => throw new ApiError(400, $"{field} is not supported. Use response_format with a json_schema, or structured_outputs with json, regex or choice.", field, "unsupported_parameter"),
    };

    private static TokenConstraint OfFormat(JsonObject format, ServedModel model)
    {
        switch (TypeOf(format))
        {
            case "json_object":
                return model.Constraints.JsonObject();
            case "json_schema":
                JsonObject named = format["json_schema"] as JsonObject ?? throw RequestBody.Wrong("response_format.json_schema", "an object with name and schema", format["json_schema"]);
                return model.Constraints.Json(Schema("response_format.json_schema.schema", named["schema"]));
            default:
                throw RequestBody.Wrong("response_format.type", "text, json_object or json_schema", format["type"]);
        }
    }

    private static TokenConstraint OfOutputs(JsonObject outputs, ServedModel model)
    {
        KeyValuePair<string, JsonNode?>[] given = [.. outputs.Where(p => p.Value is not null && p.Value.GetValueKind() != JsonValueKind.False)];
        string[] forms = ["json", "regex", "choice", "json_object"];
        if (given.Where(p => forms.Contains(p.Key)).ToArray() is not [(var form, { } value)] || given.Any(p => !forms.Contains(p.Key) && p.Key is "grammar" or "structural_tag"))
        {
            throw ApiError.Invalid("structured_outputs", $"structured_outputs: expected one of {string.Join(", ", forms)}, found {(given.Length == 0 ? "none" : ApiError.Shorten(string.Join(", ", given.Select(p => p.Key))))}.");
        }

        string at = "structured_outputs." + form;
        return form switch
        {
            "json" => model.Constraints.Json(Schema(at, value)),
            "regex" => value.GetValueKind() == JsonValueKind.String ? model.Constraints.Regex(value.GetValue<string>()) : throw RequestBody.Wrong(at, "a string", value),
            "choice" => value is JsonArray { Count: > 0 and <= MostChoices } list && list.All(n => n?.GetValueKind() == JsonValueKind.String)
                ? model.Constraints.OneOf([.. list.Select(n => n!.GetValue<string>())])
                : throw RequestBody.Wrong(at, $"a list of 1 to {MostChoices} strings", value),
            _ => model.Constraints.JsonObject(),
        };
    }

    // A schema, or its text.
    private static JsonNode Schema(string at, JsonNode? node)
    {
        try
        {
            node = node?.GetValueKind() == JsonValueKind.String ? JsonNode.Parse(node.GetValue<string>()) : node;
        }
        catch (JsonException error)
        {
            throw ApiError.Invalid(at, $"{at} is not valid JSON: {error.Message}");
        }

        return node is JsonObject ? node : throw RequestBody.Wrong(at, "a JSON schema", node);
    }

    private static string TypeOf(JsonObject format) => format["type"] is JsonValue type && type.GetValueKind() == JsonValueKind.String ? type.GetValue<string>() : throw RequestBody.Wrong("response_format.type", "text, json_object or json_schema", format["type"]);

    private static TokenConstraint Located(string field, Func<TokenConstraint> make)
    {
        try
        {
            return make();
        }
        catch (ConstraintException error)
        {
            throw new ApiError(400, error.Message, field, "invalid_schema");
        }
    }
}
