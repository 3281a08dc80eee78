using System.Globalization;
using System.Numerics;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Values as Python prints them: <c>str</c>, <c>repr</c> and the names of types.</summary>
internal static class PythonText
{
    public static string Str(object? value) => value switch
    {
        string text => text,
        Markup markup => markup.Text,
        Undefined => string.Empty,
        _ => Repr(value),
    };

    public static string Repr(object? value)
    {
        switch (value)
        {
            case string text:
                return Quote(text);
            case long number:
                return number.ToString(CultureInfo.InvariantCulture);
            case null:
                return "None";
            default:
                var result = new StringBuilder();
                Append(result, value);
                return result.ToString();
        }
    }

    private static void Append(StringBuilder result, object? value)
    {
        Budget.Depth();
        switch (value)
        {
            case null:
                result.Append("None");
                break;
            case bool flag:
                result.Append(flag ? "True" : "False");
                break;
            case long number:
                result.Append(number.ToString(CultureInfo.InvariantCulture));
                break;
            case BigInteger number:
                string digits = number.ToString(CultureInfo.InvariantCulture);
                result.Append(digits.Length <= 4300 ? digits : throw PythonError.Value("Exceeds the limit (4300 digits) for integer string conversion; use sys.set_int_max_str_digits() to increase the limit"));
                break;
            case double number:
                result.Append(FloatText.Repr(number));
                break;
            case string text:
                result.Append(Quote(text));
                break;
            case Markup markup:
                result.Append("Markup(").Append(Quote(markup.Text)).Append(')');
                break;
            case Undefined:
                result.Append("Undefined");
                break;
            case List<object?> list:
                AppendItems(result.Append('['), list).Append(']');
                break;
            case PythonTuple tuple:
                AppendItems(result.Append('('), tuple.Items).Append(tuple.Items.Count == 1 ? ",)" : ")");
                break;
            case PythonDict dict:
                AppendDict(result, dict);
                break;
            case DictView view:
                AppendItems(result.Append(view.TypeName).Append("(["), view.Items).Append("])");
                break;
            case Namespace space:
                AppendDict(result.Append("<Namespace "), space.Attributes);
                result.Append('>');
                break;
            case PythonRange range:
                result.Append(range);
                break;
            case Macro macro:
                result.Append(macro.Name is null ? "<Macro anonymous>" : $"<Macro {Quote(macro.Name)}>");
                break;
            case LoopContext loop:
                result.Append(CultureInfo.InvariantCulture, $"<LoopContext {loop.Index0 + 1}/{loop.Length}>");
                break;
            case Function function:
                result.Append(CultureInfo.InvariantCulture, $"<{function.TypeName} {function.Name}>");
                break;
            default:
                result.Append(CultureInfo.InvariantCulture, $"<{TypeName(value)} object>");
                break;
        }
    }

    private static StringBuilder AppendItems(StringBuilder result, IEnumerable<object?> items)
    {
        bool first = true;
        foreach (object? item in items)
        {
            result.Append(first ? string.Empty : ", ");
            Append(result, item);
            first = false;
        }

        return result;
    }

    private static void AppendDict(StringBuilder result, PythonDict dict)
    {
        result.Append('{');
        bool first = true;
        foreach ((object? key, object? item) in dict)
        {
            result.Append(first ? string.Empty : ", ");
            Append(result, key);
            result.Append(": ");
            Append(result, item);
            first = false;
        }

        result.Append('}');
    }

    private static string Quote(string text)
    {
        char quote = text.Contains('\'', StringComparison.Ordinal) && !text.Contains('"', StringComparison.Ordinal) ? '"' : '\'';
        var result = new StringBuilder(text.Length + 2).Append(quote);
        for (int i = 0; i < text.Length; i++)
        {
            char c = text[i];
            if (c == quote || c == '\\')
            {
                result.Append('\\').Append(c);
            }
            else if (c is '\n' or '\r' or '\t')
            {
                result.Append(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
            }
            else if (c is >= ' ' and < '\x7f')
            {
                result.Append(c);
            }
            else
            {
                bool pair = char.IsHighSurrogate(c) && i + 1 < text.Length && char.IsLowSurrogate(text[i + 1]);
                int code = pair ? char.ConvertToUtf32(c, text[++i]) : c;
                result.Append(IsPrintable(code, pair) ? char.ConvertFromUtf32(code) : code < 0x100 ? $"\\x{code:x2}" : code < 0x10000 ? $"\\u{code:x4}" : $"\\U{code:x8}");
            }
        }

        return result.Append(quote).ToString();
    }

    private static bool IsPrintable(int code, bool pair)
    {
        UnicodeCategory category = pair ? CharUnicodeInfo.GetUnicodeCategory(code) : CharUnicodeInfo.GetUnicodeCategory((char)code);
        return category is not (UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate or UnicodeCategory.PrivateUse
            or UnicodeCategory.OtherNotAssigned or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator or UnicodeCategory.SpaceSeparator);
    }

    public static string TypeName(object? value) => value switch
    {
        null => "NoneType",
        bool => "bool",
        long or BigInteger => "int",
        double => "float",
        string => "str",
        Markup => "Markup",
        List<object?> => "list",
        GroupTuple => "_GroupTuple",
        PythonTuple => "tuple",
        PythonDict => "dict",
        DictView view => view.TypeName,
        PythonRange => "range",
        PythonIterator iterator => iterator.TypeName,
        Function function => function.TypeName,
        _ => value.GetType().Name,
    };

    /// <summary>As Jinja names a value in "... has no attribute ...".</summary>
    public static string ObjectType(object? value) => value switch
    {
        null => "None",
        Markup => "markupsafe.Markup object",
        Namespace or Cycler => $"jinja2.utils.{TypeName(value)} object",
        Macro or LoopContext or Undefined => $"jinja2.runtime.{TypeName(value)} object",
        GroupTuple => "jinja2.filters._GroupTuple object",
        _ => TypeName(value) + " object",
    };
}
