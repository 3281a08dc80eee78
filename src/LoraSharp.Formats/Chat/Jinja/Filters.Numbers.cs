using System.Globalization;
using System.Numerics;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Filters on numbers.</summary>
internal static partial class Filters
{
    private static object? Abs(object? value, Arguments arguments, Budget budget) => value switch
    {
        double number => Math.Abs(number),
        long or bool or BigInteger => PythonOperators.Shrink(BigInteger.Abs(PythonOperators.ToBig(value))),
        _ => throw (value as Undefined)?.Error() ?? PythonError.Type($"bad operand type for abs(): '{PythonText.TypeName(value)}'"),
    };

    private static object? Round(object? value, Arguments arguments, Budget budget)
    {
        object? given = arguments.Optional(0, "precision", 0L);
        string method = PythonText.Str(arguments.Optional(1, "method", "common"));
        if (method is not ("common" or "ceil" or "floor"))
        {
            throw new PythonError(ErrorKind.Runtime, "method must be common, ceil or floor");
        }

        if (!PythonOperators.IsNumber(value))
        {
            throw (value as Undefined)?.Error() ?? PythonError.Type($"type {PythonText.TypeName(value)} doesn't define __round__ method");
        }

        long precision = Math.Clamp(PythonOperators.ToIndex(given), -400, 400);
        if (method == "common")
        {
            return value is double number ? FloatText.Round(number, (int)precision) : RoundInteger(PythonOperators.ToBig(value!), (int)precision);
        }

        double scale = Math.Pow(10, precision);
        double scaled = PythonOperators.ToDouble(value!) * scale;
        return (method == "ceil" ? Math.Ceiling(scaled) : Math.Floor(scaled)) / scale;
    }

    private static object RoundInteger(BigInteger value, int precision)
    {
        if (precision >= 0)
        {
            return PythonOperators.Shrink(value);
        }

        BigInteger unit = BigInteger.Pow(10, -precision);
        BigInteger quotient = BigInteger.DivRem(BigInteger.Abs(value), unit, out BigInteger rest);
        int half = (rest * 2).CompareTo(unit);
        quotient += half > 0 || (half == 0 && !quotient.IsEven) ? 1 : 0;
        return PythonOperators.Shrink(quotient * unit * (value.Sign < 0 ? -1 : 1));
    }

    private static object? ToInt(object? value, Arguments arguments, Budget budget)
    {
        object? otherwise = arguments.Optional(0, "default", 0L);
        long radix = PythonOperators.ToIndex(arguments.Optional(1, "base", 10L));
        switch (value)
        {
            case long or bool or BigInteger:
                return PythonOperators.Shrink(PythonOperators.ToBig(value));
            case double number:
                return Truncated(number, otherwise);
            case string or Markup:
                string text = value.ToString()!;
                return ParseInteger(text, (int)radix) is { } whole ? PythonOperators.Shrink(whole)
                    : ParseFloat(text) is { } real ? Truncated(real, otherwise) : otherwise;
            case Undefined undefined:
                throw undefined.Error();
            default:
                return otherwise;
        }
    }

    private static object? Truncated(double number, object? otherwise) => double.IsNaN(number) ? otherwise
        : double.IsFinite(number) ? PythonOperators.Shrink(new BigInteger(number))
        : throw new PythonError(ErrorKind.Overflow, "cannot convert float infinity to integer");

    private static object? ToFloat(object? value, Arguments arguments, Budget budget)
    {
        object? otherwise = arguments.Optional(0, "default", 0.0);
        return value switch
        {
            long or bool or BigInteger or double => PythonOperators.ToDouble(value),
            string or Markup => ParseFloat(value.ToString()!) is { } number ? number : otherwise,
            Undefined undefined => throw undefined.Error(),
            _ => otherwise,
        };
    }

    private static BigInteger? ParseInteger(string text, int radix)
    {
        string digits = PythonStrings.Strip(text, null);
        bool negative = digits.StartsWith('-');
        digits = digits.StartsWith('-') || digits.StartsWith('+') ? digits[1..] : digits;
        if (digits.Length > 1 && digits[0] == '0' && char.ToLowerInvariant(digits[1]) is 'x' or 'o' or 'b')
        {
            int named = char.ToLowerInvariant(digits[1]) switch { 'x' => 16, 'o' => 8, _ => 2 };
            if (radix == named || radix == 0)
            {
                radix = named;
                digits = digits[2..].StartsWith('_') ? digits[3..] : digits[2..];
            }
        }

        radix = radix == 0 ? 10 : radix;
        if (digits.Length is 0 or > 4300 || digits.StartsWith('_') || digits.EndsWith('_') || digits.Contains("__", StringComparison.Ordinal))
        {
            return null;
        }

        BigInteger value = 0;
        foreach (char c in digits.Replace("_", string.Empty, StringComparison.Ordinal))
        {
            int digit = CharUnicodeInfo.GetDecimalDigitValue(c) is >= 0 and int number ? number : char.IsAsciiLetter(c) ? char.ToLowerInvariant(c) - 'a' + 10 : 99;
            if (digit >= radix)
            {
                return null;
            }

            value = (value * radix) + digit;
        }

        return negative ? -value : value;
    }

    private static double? ParseFloat(string text)
    {
        string trimmed = PythonStrings.Strip(text, null);
        string bare = trimmed.TrimStart('+', '-').ToLowerInvariant();
        if (bare is "inf" or "infinity" or "nan")
        {
            return bare == "nan" ? double.NaN : trimmed.StartsWith('-') ? double.NegativeInfinity : double.PositiveInfinity;
        }

        bool valid = trimmed.All(c => char.IsAsciiDigit(c) || c is '+' or '-' or '.' or 'e' or 'E' or '_') && !trimmed.StartsWith('_') && !trimmed.EndsWith('_') && !trimmed.Contains("__", StringComparison.Ordinal);
        return valid && double.TryParse(trimmed.Replace("_", string.Empty, StringComparison.Ordinal), NumberStyles.Float, CultureInfo.InvariantCulture, out double value) ? value : null;
    }
}
