using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Datasets;

/// <summary>
/// Understands rows: the schema is found at the first row unless it is given, and every later row must fit it.
/// One parser reads one source; it is not safe for concurrent use before the first row was parsed.
/// </summary>
public sealed class RowParser
{
    private readonly DatasetFormat _format;
    private readonly IReadOnlyDictionary<string, string>? _columns;
    private readonly string? _because;
    private readonly FieldTemplate? _prompt;
    private readonly FieldTemplate? _completion;
    private RowOrigin _first;

    /// <summary>Creates a parser.</summary>
    /// <param name="format">The format, or <see cref="DatasetFormat.Auto"/>.</param>
    /// <param name="columns">Columns that are called otherwise, field → column.</param>
    /// <param name="promptTemplate">Makes the prompt of the row's columns in braces, e.g. <c>"Q: {question}\nA:"</c>.</param>
    /// <param name="completionTemplate">Makes the completion likewise.</param>
    /// <param name="because">What asks for the format where the user did not name it, for errors: <c>preference.loss: kto</c>.</param>
    public RowParser(DatasetFormat format = DatasetFormat.Auto, IReadOnlyDictionary<string, string>? columns = null, string? promptTemplate = null, string? completionTemplate = null, string? because = null)
    {
        _because = because;
        _format = format;
        _columns = columns;
        _prompt = promptTemplate is null ? null : new FieldTemplate(promptTemplate);
        _completion = completionTemplate is null ? null : new FieldTemplate(completionTemplate);
    }

    /// <summary>What the first row showed; null before it.</summary>
    public RowSchema? Schema { get; private set; }

    /// <summary>Columns of the first row that mean nothing in its format; none where templates may name them.</summary>
    public IReadOnlyList<string> UnusedColumns { get; private set; } = [];

    /// <summary>Understands a row.</summary>
    /// <exception cref="DatasetException">A field is missing or of another kind than the format needs.</exception>
    public RowContent Parse(DatasetRow row)
    {
        if (Schema is null)
        {
            DatasetFormat format = _format == DatasetFormat.Auto && (_prompt is not null || _completion is not null) ? DatasetFormat.PromptCompletion : _format;
            Schema = RowSchema.Detect(row, format, _columns, _prompt is not null);
            _first = row.Origin;
            UnusedColumns = _prompt is null && _completion is null ? Schema.Unused(row) : [];
        }

        var fields = new RowFields(row, Schema, _format == DatasetFormat.Auto ? _first : null, _because);
        return Schema.Format switch
        {
            DatasetFormat.Text => new TextContent(fields.Text("text")),
            DatasetFormat.PromptCompletion => Prompt(row, fields),
            DatasetFormat.Alpaca => Alpaca(fields),
            DatasetFormat.Chat => ConversationParser.Parse(fields),
            DatasetFormat.Preference => PreferenceParser.Parse(fields),
            DatasetFormat.Kto => new KtoContent(Kto(row, fields), fields.Flag("label")),
            DatasetFormat.Tokenized => Tokenized(fields),
            _ => throw new InvalidOperationException($"no parser for {Schema.Format}"),
        };
    }

    private RowContent Prompt(DatasetRow row, RowFields fields)
    {
        if (_prompt is null && fields.Node("prompt") is JsonArray)
        {
            return ConversationParser.PromptAndCompletion(fields, "completion");
        }

        string prompt = _prompt?.Fill(row) ?? fields.Text("prompt");
        string[]? references = fields.Node("references") is JsonArray list ? fields.Texts("references", list) : null;
        if (references is { Length: 0 })
        {
            throw fields.Fault("'references' is an empty list. Expected at least one text.");
        }

        string completion = _completion?.Fill(row) ?? (references is not null && !fields.Has("completion") ? references[0] : fields.Scalar("completion"));
        return new PromptContent(prompt, completion, references);
    }

    private RowContent Kto(DatasetRow row, RowFields fields) =>
        fields.Has("messages") && !fields.Has("completion") ? ConversationParser.Parse(fields) : Prompt(row, fields);

    private static AlpacaContent Alpaca(RowFields fields)
    {
        List<(string, string)> history = [];
        if (fields.Node("history") is JsonArray turns)
        {
            foreach (JsonNode? turn in turns)
            {
                history.Add(turn is JsonArray { Count: 2 } pair && pair.All(p => p?.GetValueKind() == JsonValueKind.String)
                    ? (pair[0]!.GetValue<string>(), pair[1]!.GetValue<string>())
                    : throw fields.Fault("'history' must be a list of [instruction, answer] pairs of text."));
            }
        }

        return new AlpacaContent(fields.Text("instruction"), fields.OptionalText("input") ?? "", fields.Text("output"), fields.OptionalText("system"), history);
    }

    private static TokenizedContent Tokenized(RowFields fields)
    {
        int[] ids = fields.Integers("input_ids") ?? throw fields.Missing("input_ids", "a list of token ids");
        int[]? labels = fields.Integers("labels");
        int[]? mask = fields.Integers("attention_mask");
        if (labels is not null && labels.Length != ids.Length)
        {
            throw fields.Fault($"'labels' has {labels.Length} entries, 'input_ids' has {ids.Length}. Expected as many.");
        }

        if (mask is not null && (mask.Length != ids.Length || mask.Any(m => m is not (0 or 1))))
        {
            throw fields.Fault($"'attention_mask' must hold {ids.Length} entries of 0 or 1, one for each of 'input_ids'; it has {mask.Length}.");
        }

        if (ids.Any(id => id < 0))
        {
            throw fields.Fault($"'input_ids' holds {ids.First(id => id < 0)}. Expected ids from 0.");
        }

        return new TokenizedContent(ids, labels, mask?.Select(m => m == 1).ToArray());
    }
}
