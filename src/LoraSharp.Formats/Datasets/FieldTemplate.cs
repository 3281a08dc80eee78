using System.Text;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Datasets;

/// <summary>A text with column names in braces; <c>{{</c> and <c>}}</c> stand for braces.</summary>
public sealed class FieldTemplate
{
    private readonly List<(string Text, bool IsColumn)> _parts = [];

    /// <summary>Reads a template.</summary>
    /// <exception cref="LoraSharpException">A brace is not closed.</exception>
    public FieldTemplate(string template)
    {
        var text = new StringBuilder();
        for (int i = 0; i < template.Length; i++)
        {
            char c = template[i];
            if (c is '{' or '}' && i + 1 < template.Length && template[i + 1] == c)
            {
                text.Append(c);
                i++;
            }
            else if (c == '{')
            {
                int end = template.IndexOf('}', i);
                if (end < 0)
                {
                    throw new LoraSharpException($"the template \"{template}\" has a {{ at {i} that is not closed. Write {{{{ for a brace itself.");
                }

                _parts.Add((text.ToString(), false));
                _parts.Add((template[(i + 1)..end].Trim(), true));
                text.Clear();
                i = end;
            }
            else
            {
                text.Append(c);
            }
        }

        _parts.Add((text.ToString(), false));
    }

    /// <summary>The columns it names.</summary>
    public IEnumerable<string> Columns => _parts.Where(p => p.IsColumn).Select(p => p.Text);

    /// <summary>The text for a row.</summary>
    /// <exception cref="DatasetException">The row lacks a column that the template names.</exception>
    public string Fill(DatasetRow row)
    {
        var text = new StringBuilder();
        foreach ((string part, bool isColumn) in _parts)
        {
            text.Append(!isColumn ? part
                : !row.Fields.TryGetPropertyValue(part, out JsonNode? value) ? throw new DatasetException(row, $"the template names the column '{part}', which this row lacks. Found {RowSchema.Listed(row)}.")
                : value switch
                {
                    null => "",
                    JsonValue v when v.TryGetValue(out string? s) => s,
                    _ => value.ToJsonString(),
                });
        }

        return text.ToString();
    }
}
