using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Datasets;

/// <summary>Reads the fields of one row by their canonical names, with errors that say where and what.</summary>
/// <param name="row">The row.</param>
/// <param name="schema">Which column is what.</param>
/// <param name="detectedAt">The row that showed the format; null when the format was given.</param>
/// <param name="because">What asked for the format where it was not the user by name, such as <c>preference.loss: kto</c>.</param>
internal sealed class RowFields(DatasetRow row, RowSchema schema, RowOrigin? detectedAt, string? because = null)
{
    public DatasetRow Row => row;

    public JsonNode? Node(string field) => row.Fields.TryGetPropertyValue(schema.Column(field), out JsonNode? value) ? Structured(value) : null;

    public bool Has(string field) => Node(field) is not null;

    public string Text(string field) => Node(field) switch
    {
        JsonValue value when value.TryGetValue(out string? text) => text,
        null => throw Missing(field, "text"),
        var other => throw Fault($"'{schema.Column(field)}' must be text, found {DatasetReader.Kind(other)}."),
    };

    /// <summary>Text, or a number or truth value as it is written: labels of a classification are often numbers.</summary>
    public string Scalar(string field) => Node(field) is JsonValue value && !value.TryGetValue(out string? _) ? value.ToJsonString() : Text(field);

    public string? OptionalText(string field) => Has(field) ? Text(field) : null;

    public string[] Texts(string field, JsonArray list) =>
        [.. list.Select(e => e is JsonValue value && value.TryGetValue(out string? text) ? text : throw Fault($"'{schema.Column(field)}' must be a list of texts, found {DatasetReader.Kind(e)} in it."))];

    public bool Flag(string field) => Node(field) switch
    {
        JsonValue value when value.TryGetValue(out bool flag) => flag,
        JsonValue value when value.TryGetValue(out string? text) && bool.TryParse(text, out bool flag) => flag,
        JsonValue value when value.ToJsonString().Trim('"') is "0" or "1" => value.ToJsonString().Trim('"') == "1",
        null => throw Missing(field, "true or false"),
        JsonValue value => throw Fault($"'{schema.Column(field)}' must be true or false (or 1 or 0){Because}, found {value.ToJsonString()}."),
        var other => throw Fault($"'{schema.Column(field)}' must be true or false{Because}, found {DatasetReader.Kind(other)}."),
    };

    public int[]? Integers(string field)
    {
        if (Node(field) is not { } node)
        {
            return null;
        }

        if (node is not JsonArray list)
        {
            throw Fault($"'{schema.Column(field)}' must be a list of whole numbers, found {DatasetReader.Kind(node)}.");
        }

        int[] values = new int[list.Count];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = list[i] is JsonValue value && (value.TryGetValue(out int number) || (value.TryGetValue(out long wide) && (number = (int)wide) == wide))
                ? number
                : throw Fault($"'{schema.Column(field)}' must hold whole numbers, found {list[i]?.ToJsonString() ?? "null"} at entry {i}.{(list[i] is JsonArray ? " Expected one row of a micro-batch a line, not a batch." : "")}");
        }

        return values;
    }

    public DatasetException Fault(string message) => new(row, message);

    public DatasetException Missing(string field, string kind)
    {
        string column = schema.Column(field);
        bool unlikeFirst = detectedAt is { } first && first != row.Origin;
        string why = unlikeFirst ? $" as the first row ({detectedAt}) showed" : Because;
        string what = unlikeFirst ? "If files of several kinds are mixed, give them as separate sources under data.train."
            : $"Name the columns where they are called otherwise (data.columns: {{ {field}: COLUMN }}), or change what asks for {schema.Format.Name()} rows ({because ?? "data.format"}).";
        return new DatasetException(row, row.Fields.ContainsKey(column)
            ? $"'{column}' is null. Expected {kind}."
            : $"expected a row of format {schema.Format.Name()}{why}, with '{column}' ({kind}). Found {RowSchema.Listed(row)}. {what}");
    }

    private string Because => because is null ? "" : $", which {because} learns from";

    // CSV cells and some published sets hold lists as JSON text. Only what can be nothing else is taken for it: an answer
    // that happens to be JSON is an answer.
    private JsonNode? Structured(JsonNode? value)
    {
        if (value is not JsonValue text || !text.TryGetValue(out string? json) || json.AsSpan().TrimStart() is not ['[' or '{', ..]
            || schema.Format is DatasetFormat.Text or DatasetFormat.Alpaca)
        {
            return value;
        }

        try
        {
            JsonNode? node = StrictJson.Parse(json);
            return (schema.Format == DatasetFormat.Tokenized ? node is JsonArray : IsMessage(node) || (node is JsonArray { Count: > 0 } list && list.All(IsMessage))) ? node : value;
        }
        catch (JsonException)
        {
            return value;
        }
    }

    private static bool IsMessage(JsonNode? node) => node is JsonObject message && (message.ContainsKey("role") || message.ContainsKey("from"));

    /// <summary>A number in a message's weight.</summary>
    public static float? Number(JsonNode? node) => node is JsonValue value && double.TryParse(value.ToJsonString().Trim('"'), NumberStyles.Float, CultureInfo.InvariantCulture, out double number) ? (float)number : null;
}
