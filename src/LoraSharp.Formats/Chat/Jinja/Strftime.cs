using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Python's <c>strftime</c> in the C locale, for the dates that templates put into a system prompt.</summary>
internal static class Strftime
{
    public static string Format(DateTime time, string format)
    {
        var result = new StringBuilder();
        for (int i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 >= format.Length)
            {
                result.Append(format[i]);
                continue;
            }

            char modifier = format[i + 1] is '-' or '_' or '0' or '^' or '#' && i + 2 < format.Length ? format[++i] : '\0';
            string? part = Part(time, format[++i]);
            result.Append(part is null ? $"%{(modifier == '\0' ? string.Empty : modifier)}{format[i]}" : Modify(part, modifier));
        }

        return result.ToString();
    }

    private static string Modify(string part, char modifier) => modifier switch
    {
        '-' => part.TrimStart('0', ' ') is { Length: > 0 } trimmed ? trimmed : "0",
        '_' when part.StartsWith('0') => part.TrimStart('0').PadLeft(part.Length),
        '0' => part.Replace(' ', '0'),
        '^' or '#' => part.ToUpperInvariant(),
        _ => part,
    };

    private static string? Part(DateTime time, char code)
    {
        CultureInfo culture = CultureInfo.InvariantCulture;
        int weekday = (int)time.DayOfWeek;
        return code switch
        {
            'a' => time.ToString("ddd", culture),
            'A' => time.ToString("dddd", culture),
            'b' or 'h' => time.ToString("MMM", culture),
            'B' => time.ToString("MMMM", culture),
            'c' => Format(time, "%a %b %e %H:%M:%S %Y"),
            'C' => (time.Year / 100).ToString("00", culture),
            'd' => time.ToString("dd", culture),
            'D' or 'x' => Format(time, "%m/%d/%y"),
            'e' => time.Day.ToString(culture).PadLeft(2),
            'f' => time.ToString("ffffff", culture),
            'F' => time.ToString("yyyy-MM-dd", culture),
            'g' => (ISOWeek.GetYear(time) % 100).ToString("00", culture),
            'G' => ISOWeek.GetYear(time).ToString(culture),
            'H' => time.ToString("HH", culture),
            'I' => time.ToString("hh", culture),
            'j' => time.DayOfYear.ToString("000", culture),
            'k' => time.Hour.ToString(culture).PadLeft(2),
            'l' => time.ToString("%h", culture).PadLeft(2),
            'm' => time.ToString("MM", culture),
            'M' => time.ToString("mm", culture),
            'n' => "\n",
            'p' => time.ToString("tt", culture),
            'P' => time.ToString("tt", culture).ToLowerInvariant(),
            'r' => Format(time, "%I:%M:%S %p"),
            'R' => time.ToString("HH:mm", culture),
            's' => new DateTimeOffset(time).ToUnixTimeSeconds().ToString(culture),
            'S' => time.ToString("ss", culture),
            't' => "\t",
            'T' or 'X' => time.ToString("HH:mm:ss", culture),
            'u' => (weekday == 0 ? 7 : weekday).ToString(culture),
            'U' => ((time.DayOfYear + 6 - weekday) / 7).ToString("00", culture),
            'V' => ISOWeek.GetWeekOfYear(time).ToString("00", culture),
            'w' => weekday.ToString(culture),
            'W' => ((time.DayOfYear + 6 - ((weekday + 6) % 7)) / 7).ToString("00", culture),
            'y' => (time.Year % 100).ToString("00", culture),
            'Y' => time.Year.ToString(culture),
            'z' or 'Z' => string.Empty,
            '%' => "%",
            _ => null,
        };
    }
}
