using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Datasets;

/// <summary>The format of a data set's rows and which column is what: given, or found by looking at a row.</summary>
/// <param name="Format">Never <see cref="DatasetFormat.Auto"/>.</param>
/// <param name="Columns">Column of the file for each field of the format that is called otherwise, such as prompt → question.</param>
public sealed record RowSchema(DatasetFormat Format, IReadOnlyDictionary<string, string> Columns)
{
    // Names that published data sets use for the same thing.
    private static readonly string[][] PromptPairs =
    [
        ["prompt", "completion"], ["prompt", "response"], ["prompt", "output"], ["prompt", "answer"], ["prompt", "references"], ["prompt", "target"],
        ["question", "answer"], ["question", "response"], ["query", "response"], ["query", "answer"], ["input", "output"], ["input", "target"], ["source", "target"],
    ];

    /// <summary>The column of a field.</summary>
    public string Column(string field) => Columns.TryGetValue(field, out string? column) ? column : field;

    /// <summary>Columns of a row that mean nothing in this format.</summary>
    public IReadOnlyList<string> Unused(DatasetRow row)
    {
        ArgumentNullException.ThrowIfNull(row);
        string[] fields = Format switch
        {
            DatasetFormat.Text => ["text"],
            DatasetFormat.PromptCompletion when row.Fields[Column("prompt")] is JsonArray => ["prompt", "completion", "references", .. OfConversation],
            DatasetFormat.PromptCompletion => ["prompt", "completion", "references"],
            DatasetFormat.Alpaca => ["instruction", "input", "output", "system", "history"],
            DatasetFormat.Chat => ["messages", .. OfConversation],
            DatasetFormat.Preference => ["prompt", "question", "query", "input", "instruction", "messages", "chosen", "rejected", .. OfConversation],
            DatasetFormat.Kto => ["prompt", "completion", "messages", "label", .. OfConversation],
            _ => ["input_ids", "labels", "attention_mask"],
        };
        HashSet<string> used = [.. fields.Select(Column)];
        return [.. row.Fields.Select(f => f.Key).Where(k => !used.Contains(k))];
    }

    private static readonly string[] OfConversation = ["system", "tools", "chat_template_kwargs"];

    /// <summary>Finds the schema of a row.</summary>
    /// <param name="row">The row to look at.</param>
    /// <param name="format">The format when it is given.</param>
    /// <param name="columns">Columns that the user named, field → column.</param>
    /// <param name="promptFromTemplate">The prompt is made by a template, so that no prompt column is needed.</param>
    /// <exception cref="DatasetException">The columns fit no format; the message lists them.</exception>
    public static RowSchema Detect(DatasetRow row, DatasetFormat format = DatasetFormat.Auto, IReadOnlyDictionary<string, string>? columns = null, bool promptFromTemplate = false)
    {
        columns ??= new Dictionary<string, string>();
        foreach ((string field, string column) in columns)
        {
            if (!row.Fields.ContainsKey(column))
            {
                throw new DatasetException(row, $"there is no column '{column}' (named for '{field}' under data.columns). Found {Listed(row)}.");
            }
        }

        bool Has(string field) => columns.ContainsKey(field) || (row.Fields.TryGetPropertyValue(field, out JsonNode? value) && value is not null);
        var named = new Dictionary<string, string>(columns);
        if (format is DatasetFormat.Auto or DatasetFormat.Chat && !Has("messages") && Has("conversations"))
        {
            named.TryAdd("messages", "conversations");
        }

        DatasetFormat found = format != DatasetFormat.Auto ? format : Guess(row, Has);
        if (found is DatasetFormat.PromptCompletion or DatasetFormat.Kto && !promptFromTemplate && !(Has("prompt") && Has("completion")) && !Has("messages"))
        {
            string[]? pair = PromptPairs.FirstOrDefault(p => Has(p[0]) && Has(p[1]))
                ?? (Has("text") && Has("label") && found == DatasetFormat.PromptCompletion ? ["text", "label"] : null);
            if (pair is not null)
            {
                Name("prompt", pair[0]);
                Name(pair[1] == "references" ? "references" : "completion", pair[1]);
            }
        }
        else if (found is DatasetFormat.PromptCompletion && promptFromTemplate && !Has("completion") && !Has("references"))
        {
            string? completion = PromptPairs.Select(p => p[1]).Append("label").FirstOrDefault(Has);
            if (completion is not null)
            {
                Name("completion", completion);
            }
        }

        if (found == DatasetFormat.Alpaca)
        {
            if (!Has("output") && Has("response"))
            {
                Name("output", "response");
            }

            if (!Has("input") && Has("context"))
            {
                Name("input", "context");
            }
        }

        if (found is DatasetFormat.Chat or DatasetFormat.Kto or DatasetFormat.Preference && !Has("messages") && Has("conversations"))
        {
            Name("messages", "conversations");
        }

        if (found == DatasetFormat.Kto && !Has("label") && Has("kto_tag"))
        {
            Name("label", "kto_tag");
        }

        if (found == DatasetFormat.Text && !Has("text") && Has("content"))
        {
            Name("text", "content");
        }

        return new RowSchema(found, named);

        void Name(string field, string column)
        {
            if (field != column)
            {
                named.TryAdd(field, column);
            }
        }
    }

    private static DatasetFormat Guess(DatasetRow row, Func<string, bool> has)
    {
        if (has("input_ids"))
        {
            return DatasetFormat.Tokenized;
        }

        if (has("chosen") && has("rejected"))
        {
            return DatasetFormat.Preference;
        }

        if ((has("label") && IsFlag(row.Fields["label"]) && (has("completion") || has("messages") || has("conversations"))) || has("kto_tag"))
        {
            return DatasetFormat.Kto;
        }

        if (has("messages") || has("conversations"))
        {
            return DatasetFormat.Chat;
        }

        if (has("instruction") && (has("output") || has("response")))
        {
            return DatasetFormat.Alpaca;
        }

        if (PromptPairs.Any(p => has(p[0]) && has(p[1])) || (has("text") && has("label")))
        {
            return DatasetFormat.PromptCompletion;
        }

        return has("text") || has("content")
            ? DatasetFormat.Text
            : throw new DatasetException(row, $"the columns fit no known format. Found {Listed(row)}. Expected messages or conversations (chat), instruction and output (alpaca), prompt and completion, text, prompt with chosen and rejected (preference), prompt, completion and a true/false label (kto), or input_ids (tokenized). Name the columns under data.columns, e.g. {{ prompt: question, completion: answer }}.");
    }

    private static bool IsFlag(JsonNode? node) => node?.GetValueKind() switch
    {
        JsonValueKind.True or JsonValueKind.False => true,
        JsonValueKind.String => bool.TryParse(node.GetValue<string>(), out _),
        _ => false,
    };

    internal static string Listed(DatasetRow row) => row.Fields.Count == 0 ? "no columns" : "the columns " + string.Join(", ", row.Fields.Select(f => f.Key).Take(20));
}
