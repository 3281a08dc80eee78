using System.Globalization;
using System.Numerics;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Python's <c>'%s is %5.2f' % values</c> (library reference, "printf-style String Formatting").</summary>
internal static class PercentFormat
{
    public static string Apply(string format, object? values, Budget budget)
    {
        var result = new StringBuilder();
        PythonTuple? tuple = values as PythonTuple;
        int next = 0;
        for (int i = 0; i < format.Length; i++)
        {
            if (format[i] != '%')
            {
                result.Append(format[i]);
                continue;
            }

            object? named = null;
            bool byName = false;
            i++;
            if (i < format.Length && format[i] == '(')
            {
                int close = format.IndexOf(')', i);
                if (close < 0)
                {
                    throw PythonError.Value("incomplete format key");
                }

                string key = format[(i + 1)..close];
                byName = true;
                named = values is PythonDict dict
                    ? (dict.TryGet(key, out object? item) ? item : throw new PythonError(ErrorKind.Lookup, PythonText.Repr(key)))
                    : throw (values as Undefined)?.Error() ?? PythonError.Type("format requires a mapping");
                i = close + 1;
            }

            int flagsAt = i;
            while (i < format.Length && "#0- +".Contains(format[i], StringComparison.Ordinal))
            {
                i++;
            }

            string flags = format[flagsAt..i];
            long? width = Number(ref i);
            long precision = -1;
            if (i < format.Length && format[i] == '.')
            {
                i++;
                precision = Math.Max(0, Number(ref i) ?? 0);
            }

            while (i < format.Length && format[i] is 'l' or 'h' or 'L')
            {
                i++;
            }

            if (i >= format.Length)
            {
                throw PythonError.Value("incomplete format");
            }

            if (format[i] == '%')
            {
                result.Append('%');
                continue;
            }

            // Without a number the width is null; a negative one, given as '*', aligns to the left.
            bool left = flags.Contains('-', StringComparison.Ordinal) || width < 0;
            width = Math.Abs(width ?? 0);
            budget.Grow(result.Length, width.Value + Math.Max(0, precision));
            string text = One(format[i], byName ? named : Take(), flags, (int)precision, i);
            bool zeros = flags.Contains('0', StringComparison.Ordinal) && !left && !"sr%ac".Contains(format[i], StringComparison.Ordinal);
            result.Append(left ? PythonStrings.Pad(text, width.Value, " ", '<', budget) : zeros ? PythonStrings.ZeroFill(text, width.Value, budget) : PythonStrings.Pad(text, width.Value, " ", '>', budget));
        }

        bool unused = tuple is not null ? next < tuple.Items.Count : next == 0 && values is not (PythonDict or Undefined or List<object?> or PythonRange);
        return unused ? throw PythonError.Type("not all arguments converted during string formatting") : result.ToString();

        object? Take()
        {
            if (tuple is not null)
            {
                return next < tuple.Items.Count ? tuple.Items[next++] : throw PythonError.Type("not enough arguments for format string");
            }

            return next++ == 0 ? values : throw PythonError.Type("not enough arguments for format string");
        }

        long? Number(ref int at)
        {
            if (at < format.Length && format[at] == '*')
            {
                at++;
                return PythonOperators.ToIndex(Take());
            }

            long? number = null;
            for (; at < format.Length && char.IsAsciiDigit(format[at]); at++)
            {
                number = Math.Min(((number ?? 0) * 10) + (format[at] - '0'), int.MaxValue);
            }

            return number;
        }
    }

    private static string One(char type, object? value, string flags, int precision, int at)
    {
        switch (type)
        {
            case 's':
                return Cut(PythonText.Str(value), precision);
            case 'r' or 'a':
                return Cut(PythonText.Repr(value), precision);
            case 'c':
                return value is string text && CodePoints.Count(text) == 1 ? text : char.ConvertFromUtf32((int)PythonOperators.ToIndex(value));
            case 'd' or 'i' or 'u':
                if (value is double number && double.IsFinite(number))
                {
                    value = PythonOperators.Shrink(new BigInteger(number));
                }

                if (!PythonOperators.IsInteger(value))
                {
                    throw (value as Undefined)?.Error() ?? PythonError.Type($"%{type} format: a real number is required, not {PythonText.TypeName(value)}");
                }

                BigInteger whole = PythonOperators.ToBig(value!);
                return Sign(whole.Sign < 0, BigInteger.Abs(whole).ToString(CultureInfo.InvariantCulture).PadLeft(Math.Max(0, precision), '0'), flags);
            case 'x' or 'X' or 'o':
                if (!PythonOperators.IsInteger(value))
                {
                    throw (value as Undefined)?.Error() ?? PythonError.Type($"%{type} format: an integer is required, not {PythonText.TypeName(value)}");
                }

                BigInteger integer = PythonOperators.ToBig(value!);
                string prefix = flags.Contains('#', StringComparison.Ordinal) ? $"0{type}" : string.Empty;
                return Sign(integer.Sign < 0, prefix + BraceFormat.InRadix(BigInteger.Abs(integer), type == 'o' ? 8 : 16, type == 'X').PadLeft(Math.Max(0, precision), '0'), flags);
            case 'f' or 'F' or 'e' or 'E' or 'g' or 'G':
                if (!PythonOperators.IsNumber(value))
                {
                    throw (value as Undefined)?.Error() ?? PythonError.Type($"must be real number, not {PythonText.TypeName(value)}");
                }

                double real = PythonOperators.ToDouble(value!);
                return Sign(double.IsNegative(real), BraceFormat.Real(Math.Abs(real), type, precision < 0 ? 6 : precision, flags.Contains('#', StringComparison.Ordinal)), flags);
            default:
                throw PythonError.Value($"unsupported format character '{type}' (0x{(int)type:x}) at index {at}");
        }
    }

    private static string Sign(bool negative, string digits, string flags) =>
        (negative ? "-" : flags.Contains('+', StringComparison.Ordinal) ? "+" : flags.Contains(' ', StringComparison.Ordinal) ? " " : string.Empty) + digits;

    private static string Cut(string text, int length) => length < 0 ? text : text[..CodePoints.UnitOf(text, length)];
}
