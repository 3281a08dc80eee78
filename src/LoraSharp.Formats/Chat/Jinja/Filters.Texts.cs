using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Filters on texts.</summary>
internal static partial class Filters
{
    private static object? Trim(object? value, Arguments arguments, Budget budget)
    {
        object? characters = arguments.Optional(0, "chars");
        return PythonStrings.Strip(PythonText.Str(value), characters is null ? null : PythonText.Str(characters));
    }

    private static object? Replace(object? value, Arguments arguments, Budget budget)
    {
        string old = PythonText.Str(arguments.Required(0, "old"));
        string replacement = PythonText.Str(arguments.Required(1, "new"));
        object? count = arguments.Optional(2, "count");
        return PythonStrings.Replace(PythonText.Str(value), old, replacement, count is null ? -1 : PythonOperators.ToIndex(count), budget);
    }

    private static object? Center(object? value, Arguments arguments, Budget budget) =>
        PythonStrings.Pad(PythonText.Str(value), PythonOperators.ToIndex(arguments.Optional(0, "width", 80L)), " ", '^', budget);

    private static object? Format(object? value, Arguments arguments, Budget budget)
    {
        if (arguments.Positional.Count > 0 && arguments.Keywords.Count > 0)
        {
            throw new PythonError(ErrorKind.Runtime, "can't handle positional and keyword arguments at the same time");
        }

        object values = new PythonTuple([.. arguments.Positional]);
        if (arguments.Keywords.Count > 0)
        {
            var dict = new PythonDict();
            foreach ((string name, object? item) in arguments.Keywords)
            {
                dict.Set(name, item);
            }

            values = dict;
        }

        return PercentFormat.Apply(PythonText.Str(value), values, budget);
    }

    // Words start behind blanks, hyphens and opening brackets.
    private static object? Title(object? value, Arguments arguments, Budget budget)
    {
        string text = PythonText.Str(value);
        var result = new StringBuilder(text.Length);
        int start = 0;
        while (start < text.Length)
        {
            bool separators = IsSeparator(text[start]);
            int end = start + 1;
            while (end < text.Length && IsSeparator(text[end]) == separators)
            {
                end++;
            }

            int first = start + 1 < end && char.IsSurrogatePair(text[start], text[start + 1]) ? 2 : 1;
            result.Append(UnicodeCase.Upper(text.Substring(start, first))).Append(UnicodeCase.Lower(text[(start + first)..end]));
            start = end;
        }

        return result.ToString();

        static bool IsSeparator(char c) => c is '-' or '(' or '{' or '[' or '<' || PythonStrings.IsWhitespace(c);
    }

    private static object? Indent(object? value, Arguments arguments, Budget budget)
    {
        object? width = arguments.Optional(0, "width", 4L);
        bool first = PythonOperators.Truth(arguments.Optional(1, "first", false));
        bool blank = PythonOperators.Truth(arguments.Optional(2, "blank", false));
        string indention = width is string or Markup ? width.ToString()! : new string(' ', (int)Math.Clamp(PythonOperators.ToIndex(width), 0, 10_000));
        if (value is not (string or Markup))
        {
            throw (value as Undefined)?.Error() ?? PythonError.Type($"unsupported operand type(s) for +=: '{PythonText.TypeName(value)}' and 'str'");
        }

        List<string> lines = PythonStrings.SplitLines(value.ToString()! + "\n");
        budget.Characters(value.ToString()!.Length + ((long)lines.Count * indention.Length));
        var result = new StringBuilder(first ? indention : string.Empty);
        for (int i = 0; i < lines.Count; i++)
        {
            result.Append(i == 0 ? string.Empty : blank || lines[i].Length > 0 ? "\n" + indention : "\n").Append(lines[i]);
        }

        return result.ToString();
    }

    private static object? Truncate(object? value, Arguments arguments, Budget budget)
    {
        long length = PythonOperators.ToIndex(arguments.Optional(0, "length", 255L));
        bool killWords = PythonOperators.Truth(arguments.Optional(1, "killwords", false));
        string end = PythonText.Str(arguments.Optional(2, "end", "..."));
        object? given = arguments.Optional(3, "leeway");
        long leeway = given is null ? 5 : PythonOperators.ToIndex(given);
        long endLength = CodePoints.Count(end);
        if (length < endLength)
        {
            throw new PythonError(ErrorKind.Runtime, $"expected length >= {endLength}, got {length}");
        }

        if (leeway < 0)
        {
            throw new PythonError(ErrorKind.Runtime, $"expected leeway >= 0, got {leeway}");
        }

        if (PythonOperators.LengthOrNull(value) is not { } size)
        {
            throw PythonError.Type($"object of type '{PythonText.TypeName(value)}' has no len()");
        }

        if (size <= length + leeway)
        {
            return value;
        }

        string text = PythonText.Str(value);
        string cut = text[..CodePoints.UnitOf(text, length - endLength)];
        return (killWords || cut.LastIndexOf(' ') is not (>= 0 and int space) ? cut : cut[..space]) + end;
    }

    private static object? WordCount(object? value, Arguments arguments, Budget budget)
    {
        long count = 0;
        bool inside = false;
        foreach (Rune rune in PythonText.Str(value).EnumerateRunes())
        {
            bool word = rune.Value == '_' || PythonStrings.IsAlphabetic(rune) || PythonStrings.IsNumeric(rune);
            count += word && !inside ? 1 : 0;
            inside = word;
        }

        return count;
    }

    private static object? WordWrap(object? value, Arguments arguments, Budget budget)
    {
        long width = PythonOperators.ToIndex(arguments.Optional(0, "width", 79L));
        bool breakLong = PythonOperators.Truth(arguments.Optional(1, "break_long_words", true));
        string separator = PythonText.Str(arguments.Optional(2, "wrapstring") ?? "\n");
        if (width <= 0)
        {
            throw PythonError.Value($"invalid width {width} (must be > 0)");
        }

        string text = PythonText.Str(value);
        budget.Characters(text.Length * (1L + separator.Length));
        return string.Join(separator, PythonStrings.SplitLines(text).Select(line => string.Join(separator, Wrap(line, (int)Math.Min(width, int.MaxValue), breakLong))));
    }

    private static List<string> Wrap(string line, int width, bool breakLong)
    {
        var lines = new List<string>();
        var current = new StringBuilder();
        var chunks = new Queue<string>(Chunks(line));
        string? held = null;
        while (held is not null || chunks.Count > 0)
        {
            string chunk = held ?? chunks.Dequeue();
            held = null;
            bool blank = PythonStrings.IsWhitespace(chunk[0]);
            if (blank && current.Length == 0 && lines.Count > 0)
            {
                continue;
            }

            if (current.Length + chunk.Length <= width)
            {
                current.Append(chunk);
                continue;
            }

            if (chunk.Length > width && !blank)
            {
                int room = breakLong ? width - current.Length : current.Length == 0 ? chunk.Length : 0;
                current.Append(chunk, 0, room);
                chunk = chunk[room..];
            }

            Flush();
            held = chunk.Length > 0 && !blank ? chunk : null;
        }

        Flush();
        return lines;

        void Flush()
        {
            string text = PythonStrings.StripEnd(current.ToString());
            if (text.Length > 0)
            {
                lines.Add(text);
            }

            current.Clear();
        }
    }

    // Words, blanks between them, and words broken behind their hyphens.
    private static IEnumerable<string> Chunks(string line)
    {
        int start = 0;
        for (int i = 1; i <= line.Length; i++)
        {
            bool border = i == line.Length
                || PythonStrings.IsWhitespace(line[i]) != PythonStrings.IsWhitespace(line[i - 1])
                || (line[i - 1] == '-' && i >= 2 && char.IsLetter(line[i - 2]) && i + 1 < line.Length && char.IsLetter(line[i]) && char.IsLetter(line[i + 1]));
            if (border)
            {
                yield return line[start..i];
                start = i;
            }
        }
    }

    private static object? UrlEncode(object? value, Arguments arguments, Budget budget)
    {
        if (value is string or Markup || PythonOperators.ItemsOrNull(value) is not { } items)
        {
            return Html.Quote(PythonText.Str(value), forQuery: false);
        }

        IEnumerable<(object? Key, object? Value)> pairs = value is PythonDict dict
            ? dict.Select(entry => (entry.Key, entry.Value))
            : items.Select(item => PythonOperators.ToList(item, budget)).Select(pair => (pair[0], pair[1]));
        return string.Join('&', pairs.Select(pair => Html.Quote(PythonText.Str(pair.Key), forQuery: true) + "=" + Html.Quote(PythonText.Str(pair.Value), forQuery: true)));
    }

    private static object? XmlAttributes(object? value, Arguments arguments, Budget budget)
    {
        PythonDict dict = value as PythonDict ?? throw PythonError.Type($"'{PythonText.TypeName(value)}' object has no attribute 'items'");
        bool space = PythonOperators.Truth(arguments.Optional(0, "autospace", true));
        string text = string.Join(' ', dict.Where(entry => entry.Value is not (null or Undefined)).Select(entry => $"{Html.Escape(entry.Key)}=\"{Html.Escape(entry.Value)}\""));
        return space && text.Length > 0 ? " " + text : text;
    }

    private static object? ToJson(object? value, Arguments arguments, Budget budget)
    {
        bool ensureAscii = PythonOperators.Truth(arguments.Optional(0, "ensure_ascii", false));
        object? indent = arguments.Optional(1, "indent");
        object? separators = arguments.Optional(2, "separators");
        bool sortKeys = PythonOperators.Truth(arguments.Optional(3, "sort_keys", false));
        arguments.Done(4);
        string? indention = indent switch
        {
            null => null,
            string or Markup => indent.ToString(),
            _ => new string(' ', (int)Math.Clamp(PythonOperators.ToIndex(indent), 0, 1000)),
        };
        List<object?> pair = separators is null ? [indention is null ? ", " : ",", ": "] : PythonOperators.ToList(separators, budget);
        return pair.Count != 2
            ? throw PythonError.Value($"not enough values to unpack (expected 2, got {pair.Count})")
            : new PythonJson(ensureAscii, indention, PythonText.Str(pair[0]), PythonText.Str(pair[1]), sortKeys).Dump(value, budget);
    }

    private static object? FileSize(object? value, Arguments arguments, Budget budget)
    {
        bool binary = PythonOperators.Truth(arguments.Optional(0, "binary", false));
        double bytes = (double)ToFloat(value, new Arguments("float", []), budget)!;
        double unit = binary ? 1024 : 1000;
        if (bytes == 1)
        {
            return "1 Byte";
        }

        if (bytes < unit)
        {
            return $"{(long)bytes} Bytes";
        }

        int power = 1;
        while (power < 8 && bytes >= Math.Pow(unit, power + 1))
        {
            power++;
        }

        string suffix = binary ? $"{"KMGTPEZY"[power - 1]}iB" : $"{"kMGTPEZY"[power - 1]}B";
        return string.Create(CultureInfo.InvariantCulture, $"{FloatText.Fixed(bytes / Math.Pow(unit, power), 1)} {suffix}");
    }
}
