using System.Globalization;
using System.Numerics;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Floats as Python writes them: shortest for <c>repr</c>, correctly rounded (ties to even) for a given precision.</summary>
internal static class FloatText
{
    public static string Repr(double value)
    {
        if (!double.IsFinite(value))
        {
            return NotFinite(value);
        }

        (string digits, int exponent) = Shortest(Math.Abs(value));
        string sign = double.IsNegative(value) ? "-" : string.Empty;
        if (exponent is < -4 or >= 16)
        {
            return sign + digits[0] + (digits.Length > 1 ? "." + digits[1..] : string.Empty) + Exponent(exponent, 'e');
        }

        return sign + Place(digits, exponent, minimumFraction: 1);
    }

    public static string NotFinite(double value) => double.IsNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";

    /// <summary>%.nf</summary>
    public static string Fixed(double value, int precision)
    {
        if (!double.IsFinite(value))
        {
            return NotFinite(value);
        }

        string digits = RoundedTimesPowerOfTen(Math.Abs(value), precision).ToString(CultureInfo.InvariantCulture).PadLeft(precision + 1, '0');
        string text = precision == 0 ? digits : digits[..^precision] + "." + digits[^precision..];
        return (double.IsNegative(value) ? "-" : string.Empty) + text;
    }

    /// <summary>%.ne</summary>
    public static string Scientific(double value, int precision, char symbol)
    {
        if (!double.IsFinite(value))
        {
            return NotFinite(value);
        }

        (string digits, int exponent) = Significant(Math.Abs(value), precision + 1);
        return (double.IsNegative(value) ? "-" : string.Empty) + digits[0] + (precision > 0 ? "." + digits[1..] : string.Empty) + Exponent(exponent, symbol);
    }

    /// <summary>%.ng</summary>
    public static string General(double value, int precision, char symbol, bool keepZeros)
    {
        if (!double.IsFinite(value))
        {
            return NotFinite(value);
        }

        precision = Math.Max(precision, 1);
        (string digits, int exponent) = Significant(Math.Abs(value), precision);
        digits = keepZeros ? digits : digits.TrimEnd('0') is { Length: > 0 } trimmed ? trimmed : "0";
        string sign = double.IsNegative(value) ? "-" : string.Empty;
        return exponent < -4 || exponent >= precision
            ? sign + digits[0] + (digits.Length > 1 ? "." + digits[1..] : string.Empty) + Exponent(exponent, symbol == 'g' ? 'e' : 'E')
            : sign + Place(digits, exponent, minimumFraction: 0);
    }

    /// <summary>Python's <c>round(x, n)</c>.</summary>
    public static double Round(double value, int digits)
    {
        if (!double.IsFinite(value) || digits > 330)
        {
            return value;
        }

        BigInteger scaled = RoundedTimesPowerOfTen(Math.Abs(value), digits);
        double rounded = double.Parse($"{scaled}E{-digits}", NumberStyles.Float, CultureInfo.InvariantCulture);
        return double.IsNegative(value) ? -rounded : rounded;
    }

    private static (string Digits, int Exponent) Shortest(double value)
    {
        if (value == 0)
        {
            return ("0", 0);
        }

        string text = value.ToString("E16", CultureInfo.InvariantCulture);
        string shortest = value.ToString("R", CultureInfo.InvariantCulture);
        int mark = shortest.IndexOf('E', StringComparison.Ordinal);
        string mantissa = mark < 0 ? shortest : shortest[..mark];
        string digits = mantissa.Replace(".", string.Empty, StringComparison.Ordinal).TrimStart('0').TrimEnd('0');
        int point = mantissa.IndexOf('.', StringComparison.Ordinal);
        int exponent = mark >= 0
            ? int.Parse(shortest.AsSpan(mark + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture)
            : mantissa[0] != '0' ? (point < 0 ? mantissa.Length : point) - 1 : int.Parse(text.AsSpan(text.IndexOf('E', StringComparison.Ordinal) + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
        return (digits, exponent);
    }

    private static (string Digits, int Exponent) Significant(double value, int count)
    {
        if (value == 0)
        {
            return (new string('0', count), 0);
        }

        int exponent = (int)Math.Floor(Math.Log10(value));
        string digits = RoundedTimesPowerOfTen(value, count - 1 - exponent).ToString(CultureInfo.InvariantCulture);
        if (digits.Length != count)
        {
            // The logarithm or the rounding went over a power of ten.
            exponent += digits.Length - count;
            digits = RoundedTimesPowerOfTen(value, count - 1 - exponent).ToString(CultureInfo.InvariantCulture);
        }

        return (digits, exponent);
    }

    private static BigInteger RoundedTimesPowerOfTen(double value, int power)
    {
        long bits = BitConverter.DoubleToInt64Bits(value);
        int exponent = (int)((bits >> 52) & 0x7FF);
        BigInteger mantissa = (bits & 0xFFFFFFFFFFFFF) | (exponent == 0 ? 0 : 1L << 52);
        int shift = Math.Max(exponent, 1) - 1075;
        BigInteger numerator = mantissa * (shift > 0 ? BigInteger.One << shift : 1) * (power > 0 ? BigInteger.Pow(10, power) : 1);
        BigInteger denominator = (shift < 0 ? BigInteger.One << -shift : 1) * (power < 0 ? BigInteger.Pow(10, -power) : 1);
        BigInteger quotient = BigInteger.DivRem(numerator, denominator, out BigInteger rest);
        int half = (rest * 2).CompareTo(denominator);
        return half > 0 || (half == 0 && !quotient.IsEven) ? quotient + 1 : quotient;
    }

    private static string Place(string digits, int exponent, int minimumFraction)
    {
        if (exponent < 0)
        {
            return "0." + new string('0', -exponent - 1) + digits;
        }

        string whole = digits.Length > exponent + 1 ? digits[..(exponent + 1)] : digits.PadRight(exponent + 1, '0');
        string fraction = digits.Length > exponent + 1 ? digits[(exponent + 1)..] : new string('0', minimumFraction);
        return fraction.Length == 0 ? whole : whole + "." + fraction;
    }

    private static string Exponent(int exponent, char symbol) => $"{symbol}{(exponent < 0 ? '-' : '+')}{Math.Abs(exponent):00}";
}
