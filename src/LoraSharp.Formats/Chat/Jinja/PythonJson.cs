using System.Globalization;
using System.Numerics;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>JSON in and out of a template: <c>json.dumps</c> with the options that transformers' <c>tojson</c> filter has.</summary>
/// <param name="EnsureAscii">Whether everything outside ASCII is escaped.</param>
/// <param name="Indent">What a level is indented with; null: all on one line.</param>
/// <param name="ItemSeparator">Between items.</param>
/// <param name="KeySeparator">Between key and value.</param>
/// <param name="SortKeys">Whether keys are sorted.</param>
internal sealed record PythonJson(bool EnsureAscii, string? Indent, string ItemSeparator, string KeySeparator, bool SortKeys)
{
    public string Dump(object? value, Budget budget)
    {
        var result = new StringBuilder();
        Append(result, value, 0, budget);
        return result.ToString();
    }

    /// <summary>A JSON value as Python's <c>json</c> reads it: whole numbers are ints, others floats.</summary>
    public static object? Read(JsonNode? node)
    {
        switch (node)
        {
            case null:
                return null;
            case JsonArray array:
                return array.Select(Read).ToList();
            case JsonObject members:
                var dict = new PythonDict();
                foreach ((string name, JsonNode? member) in members)
                {
                    dict.Set(name, Read(member));
                }

                return dict;
            default:
                JsonValue value = node.AsValue();
                return value.GetValueKind() switch
                {
                    JsonValueKind.String => value.GetValue<string>(),
                    JsonValueKind.True => true,
                    JsonValueKind.False => false,
                    JsonValueKind.Null => null,
                    _ => ReadNumber(value),
                };
        }
    }

    private static object ReadNumber(JsonValue value)
    {
        // A double made in .NET writes 1.0 as "1", so its type decides; for parsed JSON the text does.
        if (!value.TryGetValue(out JsonElement _) && (value.TryGetValue(out double number) || (value.TryGetValue(out float single) && (number = single) == number)) && !value.TryGetValue(out long _))
        {
            return number;
        }

        string text = value.ToJsonString();
        return BigInteger.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out BigInteger whole)
            ? PythonOperators.Shrink(whole)
            : double.Parse(text, NumberStyles.Float, CultureInfo.InvariantCulture);
    }

    private void Append(StringBuilder result, object? value, int depth, Budget budget)
    {
        Budget.Depth();
        budget.Grow(result.Length, 16);
        switch (value)
        {
            case null:
                result.Append("null");
                break;
            case bool flag:
                result.Append(flag ? "true" : "false");
                break;
            case string or Markup:
                Quote(result, value.ToString()!);
                break;
            case long or BigInteger:
                result.Append(PythonText.Repr(value));
                break;
            case double number:
                result.Append(Float(number));
                break;
            case List<object?> list:
                AppendItems(result, list, depth, budget);
                break;
            case PythonTuple tuple:
                AppendItems(result, tuple.Items, depth, budget);
                break;
            case PythonDict dict:
                AppendDict(result, dict, depth, budget);
                break;
            default:
                throw PythonError.Type($"Object of type {PythonText.TypeName(value)} is not JSON serializable");
        }
    }

    private void AppendItems(StringBuilder result, IReadOnlyList<object?> items, int depth, Budget budget)
    {
        result.Append('[');
        for (int i = 0; i < items.Count; i++)
        {
            result.Append(i > 0 ? ItemSeparator : string.Empty);
            NewLine(result, depth + 1);
            Append(result, items[i], depth + 1, budget);
        }

        if (items.Count > 0)
        {
            NewLine(result, depth);
        }

        result.Append(']');
    }

    private void AppendDict(StringBuilder result, PythonDict dict, int depth, Budget budget)
    {
        IEnumerable<KeyValuePair<object?, object?>> entries = SortKeys
            ? Filters.Sorted([.. dict.Keys], key => key, reverse: false, budget).Select(key => KeyValuePair.Create(key, dict.TryGet(key, out object? item) ? item : null))
            : dict;
        result.Append('{');
        bool first = true;
        foreach ((object? key, object? item) in entries)
        {
            result.Append(first ? string.Empty : ItemSeparator);
            first = false;
            NewLine(result, depth + 1);
            Quote(result, key switch
            {
                string or Markup => key.ToString()!,
                null => "null",
                bool flag => flag ? "true" : "false",
                long or BigInteger => PythonText.Repr(key),
                double number => Float(number),
                _ => throw PythonError.Type($"keys must be str, int, float, bool or None, not {PythonText.TypeName(key)}"),
            });
            result.Append(KeySeparator);
            Append(result, item, depth + 1, budget);
        }

        if (!first)
        {
            NewLine(result, depth);
        }

        result.Append('}');
    }

    private void NewLine(StringBuilder result, int depth)
    {
        if (Indent is null)
        {
            return;
        }

        result.Append('\n');
        for (int i = 0; i < depth; i++)
        {
            result.Append(Indent);
        }
    }

    private static string Float(double number) => double.IsFinite(number) ? FloatText.Repr(number) : double.IsNaN(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";

    private void Quote(StringBuilder result, string text)
    {
        result.Append('"');
        foreach (char c in text)
        {
            switch (c)
            {
                case '"' or '\\':
                    result.Append('\\').Append(c);
                    break;
                case '\n':
                    result.Append("\\n");
                    break;
                case '\r':
                    result.Append("\\r");
                    break;
                case '\t':
                    result.Append("\\t");
                    break;
                case '\b':
                    result.Append("\\b");
                    break;
                case '\f':
                    result.Append("\\f");
                    break;
                default:
                    if (c < ' ' || (EnsureAscii && c > '~'))
                    {
                        result.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}");
                    }
                    else
                    {
                        result.Append(c);
                    }

                    break;
            }
        }

        result.Append('"');
    }
}
