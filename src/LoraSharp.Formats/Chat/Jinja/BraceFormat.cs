using System.Globalization;
using System.Numerics;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Python's <c>'{} {name:>8}'.format(...)</c> (library reference, "Format String Syntax").</summary>
internal static class BraceFormat
{
    private const string Digits = "0123456789abcdef";

    public static string Apply(string format, Arguments arguments, Budget budget)
    {
        int automatic = 0;
        return Expand(format, arguments, budget, ref automatic, depth: 0);
    }

    private static string Expand(string format, Arguments arguments, Budget budget, ref int automatic, int depth)
    {
        if (depth > 2)
        {
            throw PythonError.Value("Max string recursion exceeded");
        }

        var result = new StringBuilder();
        for (int i = 0; i < format.Length; i++)
        {
            char c = format[i];
            if (c is '{' or '}' && i + 1 < format.Length && format[i + 1] == c)
            {
                result.Append(c);
                i++;
            }
            else if (c == '}')
            {
                throw PythonError.Value("Single '}' encountered in format string");
            }
            else if (c == '{')
            {
                int end = FieldEnd(format, i + 1);
                string text = Field(format[(i + 1)..end], arguments, budget, ref automatic, depth);
                budget.Grow(result.Length, text.Length);
                result.Append(text);
                i = end;
            }
            else
            {
                result.Append(c);
            }
        }

        return result.ToString();
    }

    private static int FieldEnd(string format, int start)
    {
        int open = 1;
        for (int i = start; i < format.Length; i++)
        {
            open += format[i] == '{' ? 1 : format[i] == '}' ? -1 : 0;
            if (open == 0)
            {
                return i;
            }
        }

        throw PythonError.Value(start == format.Length ? "Single '{' encountered in format string" : "expected '}' before end of string");
    }

    private static string Field(string field, Arguments arguments, Budget budget, ref int automatic, int depth)
    {
        int nameEnd = field.AsSpan().IndexOfAny('!', ':');
        string name = nameEnd < 0 ? field : field[..nameEnd];
        string rest = nameEnd < 0 ? string.Empty : field[nameEnd..];
        object? value = Lookup(name, arguments, budget, ref automatic);
        if (rest.StartsWith('!'))
        {
            char conversion = rest.Length > 1 ? rest[1] : '\0';
            value = conversion switch
            {
                's' => PythonText.Str(value),
                'r' or 'a' => PythonText.Repr(value),
                _ => throw PythonError.Value($"Unknown conversion specifier {conversion}"),
            };
            rest = rest[2..];
        }

        string specification = rest.StartsWith(':') ? Expand(rest[1..], arguments, budget, ref automatic, depth + 1) : string.Empty;
        return Value(value, specification, budget);
    }

    private static object? Lookup(string name, Arguments arguments, Budget budget, ref int automatic)
    {
        int end = name.AsSpan().IndexOfAny('.', '[');
        string first = end < 0 ? name : name[..end];
        object? value;
        if (first.Length == 0 || first.All(char.IsAsciiDigit))
        {
            // Numbering is automatic or by hand, not both; -1 is by hand.
            if (first.Length == 0 ? automatic < 0 : automatic > 0)
            {
                throw PythonError.Value("cannot switch from manual field specification to automatic field numbering");
            }

            int index = first.Length == 0 ? automatic++ : int.TryParse(first, out int parsed) ? parsed : int.MaxValue;
            automatic = first.Length == 0 ? automatic : -1;
            value = index < arguments.Positional.Count ? arguments.Positional[index] : throw new PythonError(ErrorKind.Lookup, "tuple index out of range");
        }
        else
        {
            int at = arguments.Keywords.ToList().FindIndex(keyword => keyword.Key == first);
            value = at >= 0 ? arguments.Keywords[at].Value : throw new PythonError(ErrorKind.Lookup, PythonText.Repr(first));
        }

        while (end >= 0 && end < name.Length)
        {
            if (name[end] == '[')
            {
                int close = name.IndexOf(']', end);
                if (close < 0)
                {
                    throw PythonError.Value("Missing ']' in format string");
                }

                string key = name[(end + 1)..close];
                value = Members.GetItem(value, key.Length > 0 && key.All(char.IsAsciiDigit) ? long.Parse(key, CultureInfo.InvariantCulture) : key, budget);
                end = close + 1;
            }
            else
            {
                int stop = name.AsSpan(end + 1).IndexOfAny('.', '[');
                stop = stop < 0 ? name.Length : end + 1 + stop;
                value = Members.GetAttribute(value, name[(end + 1)..stop], budget);
                end = stop;
            }
        }

        return value;
    }

    /// <summary>Python's <c>format(value, specification)</c>.</summary>
    public static string Value(object? value, string specification, Budget budget)
    {
        if (specification.Length == 0)
        {
            return PythonText.Str(value);
        }

        string fill = " ";
        char align = '\0';
        int i = 0;
        string[] points = CodePoints.Split(specification).Take(2).ToArray();
        if (points.Length > 1 && points[1] is "<" or ">" or "^" or "=")
        {
            fill = points[0];
            align = points[1][0];
            i = points[0].Length + 1;
        }
        else if (specification[0] is '<' or '>' or '^' or '=')
        {
            align = specification[i++];
        }

        char sign = Accept("+- ");
        bool alternate = Accept("#") != '\0';
        if (Accept("0") != '\0' && align == '\0')
        {
            fill = "0";
            align = '=';
        }

        long width = Number();
        char grouping = Accept(",_");
        int precision = Accept(".") != '\0' ? (int)Number() : -1;
        char type = i < specification.Length ? specification[i++] : '\0';
        if (i < specification.Length || !(PythonOperators.IsNumber(value) || value is string or Markup))
        {
            throw value is not (string or Markup) && !PythonOperators.IsNumber(value)
                ? PythonError.Type($"unsupported format string passed to {PythonText.TypeName(value)}.__format__")
                : PythonError.Value("Invalid format specifier");
        }

        budget.Characters(width + Math.Max(0, precision));
        if (value is string or Markup)
        {
            string text = value.ToString()!;
            return type is not ('\0' or 's')
                ? throw PythonError.Value($"Unknown format code '{type}' for object of type 'str'")
                : PythonStrings.Pad(precision >= 0 ? text[..CodePoints.UnitOf(text, precision)] : text, width, fill, align is '\0' or '=' ? '<' : align, budget);
        }

        (bool negative, string prefix, string digits) = Numeric(value!, type, precision, alternate);
        digits = grouping == '\0' ? digits : Group(digits, grouping, type is 'x' or 'X' or 'o' or 'b' ? 4 : 3);
        string head = (negative ? "-" : sign is '+' or ' ' ? sign.ToString() : string.Empty) + prefix;
        return align == '='
            ? head + PythonStrings.Pad(digits, width - head.Length, fill, '>', budget)
            : PythonStrings.Pad(head + digits, width, fill, align == '\0' ? '>' : align, budget);

        char Accept(string symbols) => i < specification.Length && symbols.Contains(specification[i], StringComparison.Ordinal) ? specification[i++] : '\0';

        long Number()
        {
            long number = 0;
            for (; i < specification.Length && char.IsAsciiDigit(specification[i]); i++)
            {
                number = Math.Min((number * 10) + (specification[i] - '0'), int.MaxValue);
            }

            return number;
        }
    }

    private static (bool Negative, string Prefix, string Digits) Numeric(object value, char type, int precision, bool alternate)
    {
        if (value is bool flag && type == '\0')
        {
            return (false, string.Empty, flag ? "True" : "False");
        }

        if (value is double || type is 'f' or 'F' or 'e' or 'E' or 'g' or 'G' or '%')
        {
            double number = PythonOperators.ToDouble(value);
            double size = Math.Abs(number);
            string text = type switch
            {
                '\0' when precision < 0 => FloatText.Repr(size),
                '\0' => FloatText.General(size, precision, 'g', keepZeros: false),
                '%' => FloatText.Fixed(size * 100, precision < 0 ? 6 : precision) + "%",
                'n' => Real(size, 'g', precision < 0 ? 6 : precision, alternate),
                _ => Real(size, type, precision < 0 ? 6 : precision, alternate),
            };
            return (double.IsNegative(number) && !double.IsNaN(number), string.Empty, text);
        }

        BigInteger integer = PythonOperators.ToBig(value);
        BigInteger magnitude = BigInteger.Abs(integer);
        string prefix = alternate && type is 'x' or 'X' or 'o' or 'b' ? $"0{type}" : string.Empty;
        return (integer.Sign < 0, prefix, type switch
        {
            '\0' or 'd' or 'n' => magnitude.ToString(CultureInfo.InvariantCulture),
            'x' or 'X' => InRadix(magnitude, 16, type == 'X'),
            'o' => InRadix(magnitude, 8, upper: false),
            'b' => InRadix(magnitude, 2, upper: false),
            'c' => char.ConvertFromUtf32((int)magnitude),
            _ => throw PythonError.Value($"Unknown format code '{type}' for object of type '{PythonText.TypeName(value)}'"),
        });
    }

    public static string Real(double size, char type, int precision, bool keepZeros)
    {
        string text = type switch
        {
            'f' or 'F' => FloatText.Fixed(size, precision),
            'e' or 'E' => FloatText.Scientific(size, precision, type),
            'g' or 'G' => FloatText.General(size, precision, type, keepZeros),
            _ => throw PythonError.Value($"Unknown format code '{type}' for object of type 'float'"),
        };
        return type is 'F' or 'G' or 'E' ? text.ToUpperInvariant() : text;
    }

    public static string InRadix(BigInteger value, int radix, bool upper)
    {
        if (value.IsZero)
        {
            return "0";
        }

        var digits = new List<char>();
        for (; !value.IsZero; value /= radix)
        {
            char digit = Digits[(int)(value % radix)];
            digits.Add(upper ? char.ToUpperInvariant(digit) : digit);
        }

        digits.Reverse();
        return string.Concat(digits);
    }

    private static string Group(string digits, char separator, int size)
    {
        int whole = digits.TakeWhile(char.IsAsciiHexDigit).Count();
        var result = new StringBuilder(digits);
        for (int at = whole - size; at > 0; at -= size)
        {
            result.Insert(at, separator);
        }

        return result.ToString();
    }
}
