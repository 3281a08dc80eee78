using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>The methods of Python's <c>str</c> by name.</summary>
internal static class StringMethods
{
    /// <summary>The method bound to a text, or the sign that there is none.</summary>
    public static object? Find(string text, string name, Budget budget)
    {
        Func<Arguments, object?>? call = Plain(text, name) ?? Searching(text, name, budget) ?? Building(text, name, budget);
        return call is null ? Members.Missing.Value : new Function(name, call, "builtin_function_or_method");
    }

    private static Func<Arguments, object?>? Plain(string text, string name)
    {
        Func<string, object?>? simple = name switch
        {
            "upper" => UnicodeCase.Upper,
            "lower" or "casefold" => UnicodeCase.Lower,
            "title" => UnicodeCase.Title,
            "capitalize" => UnicodeCase.Capitalize,
            "swapcase" => UnicodeCase.SwapCase,
            "isdigit" => value => PythonStrings.All(value, PythonStrings.IsDigit),
            "isdecimal" => value => PythonStrings.All(value, PythonStrings.IsDecimal),
            "isnumeric" => value => PythonStrings.All(value, PythonStrings.IsNumeric),
            "isalpha" => value => PythonStrings.All(value, PythonStrings.IsAlphabetic),
            "isalnum" => value => PythonStrings.All(value, rune => PythonStrings.IsAlphabetic(rune) || PythonStrings.IsNumeric(rune)),
            "isspace" => value => value.Length > 0 && value.All(PythonStrings.IsWhitespace),
            "islower" => value => UnicodeCase.IsAll(value, UnicodeCategory.LowercaseLetter),
            "isupper" => value => UnicodeCase.IsAll(value, UnicodeCategory.UppercaseLetter),
            "istitle" => value => UnicodeCase.IsTitle(value),
            "isascii" => value => value.All(char.IsAscii),
            "isidentifier" => value => PythonStrings.IsIdentifier(value),
            "isprintable" => value => PythonText.Repr(value).Length == value.Length + 2 + value.Count(c => c is '\\' or '\'') || value.All(c => c is >= ' ' and < '\x7f'),
            _ => null,
        };
        return simple is null ? null : arguments =>
        {
            return arguments.Positional.Count + arguments.Keywords.Count > 0
                ? throw PythonError.Type($"str.{name}() takes no arguments ({arguments.Positional.Count} given)")
                : simple(text);
        };
    }

    private static Func<Arguments, object?>? Searching(string text, string name, Budget budget) => name switch
    {
        "startswith" => arguments => Affix(text, arguments, (part, affix) => part.StartsWith(affix, StringComparison.Ordinal)),
        "endswith" => arguments => Affix(text, arguments, (part, affix) => part.EndsWith(affix, StringComparison.Ordinal)),
        "find" => arguments => Position(text, arguments, last: false),
        "rfind" => arguments => Position(text, arguments, last: true),
        "index" or "rindex" => arguments => Position(text, arguments, last: name == "rindex") is >= 0 and long at ? at : throw PythonError.Value("substring not found"),
        "count" => arguments => Window(text, arguments, out string part, out _) ? PythonStrings.CountOf(part, Text(arguments[0], "must be str")) : 0L,
        "split" or "rsplit" => arguments =>
        {
            object? separator = arguments.Optional(0, "sep");
            long most = PythonOperators.ToIndex(arguments.Optional(1, "maxsplit", -1L));
            arguments.Done(2);
            List<object?> parts = PythonStrings.Split(text, separator is null ? null : Text(separator, "must be str or None"), most, fromEnd: name == "rsplit");
            budget.Items(parts.Count);
            return parts;
        }
        ,
        "splitlines" => arguments =>
        {
            bool keep = PythonOperators.Truth(arguments.Optional(0, "keepends", false));
            arguments.Done(1);
            List<object?> lines = [.. PythonStrings.SplitLines(text, keep)];
            budget.Items(lines.Count);
            return lines;
        }
        ,
        "partition" or "rpartition" => arguments =>
        {
            string separator = Text(arguments.Required(0, "sep"), "must be str");
            int at = separator.Length == 0 ? throw PythonError.Value("empty separator")
                : name == "partition" ? text.IndexOf(separator, StringComparison.Ordinal) : text.LastIndexOf(separator, StringComparison.Ordinal);
            return at >= 0 ? new PythonTuple([text[..at], separator, text[(at + separator.Length)..]])
                : name == "partition" ? new PythonTuple([text, string.Empty, string.Empty]) : new PythonTuple([string.Empty, string.Empty, text]);
        }
        ,
        _ => null,
    };

    private static Func<Arguments, object?>? Building(string text, string name, Budget budget) => name switch
    {
        "strip" => arguments => PythonStrings.Strip(text, Characters(arguments)),
        "lstrip" => arguments => PythonStrings.StripStart(text, Characters(arguments)),
        "rstrip" => arguments => PythonStrings.StripEnd(text, Characters(arguments)),
        "removeprefix" => arguments => Text(arguments.Required(0, "prefix"), "must be str") is string prefix && text.StartsWith(prefix, StringComparison.Ordinal) ? text[prefix.Length..] : text,
        "removesuffix" => arguments => Text(arguments.Required(0, "suffix"), "must be str") is { Length: > 0 } suffix && text.EndsWith(suffix, StringComparison.Ordinal) ? text[..^suffix.Length] : text,
        "replace" => arguments =>
        {
            if (arguments.Positional.Count < 2)
            {
                throw PythonError.Type($"replace expected at least 2 arguments, got {arguments.Positional.Count}");
            }

            long count = PythonOperators.ToIndex(arguments.Optional(2, "count", -1L));
            arguments.Done(3);
            return PythonStrings.Replace(text, Text(arguments[0], "replace() argument 1 must be str"), Text(arguments[1], "replace() argument 2 must be str"), count, budget);
        }
        ,
        "join" => arguments => Join(text, arguments.Required(0, "iterable"), budget),
        "format" => arguments => BraceFormat.Apply(text, arguments, budget),
        "format_map" => arguments => arguments.Required(0, "mapping") is PythonDict dict
            ? BraceFormat.Apply(text, new Arguments(name, [], dict.Where(entry => entry.Key is string).Select(entry => KeyValuePair.Create((string)entry.Key!, entry.Value)).ToList()), budget)
            : throw PythonError.Type("format_map() argument must be a mapping"),
        "ljust" or "rjust" or "center" => arguments =>
        {
            long width = PythonOperators.ToIndex(arguments.Required(0, "width"));
            string fill = Text(arguments.Optional(1, "fillchar", " "), "The fill character must be a unicode character");
            arguments.Done(2);
            return CodePoints.Count(fill) != 1
                ? throw PythonError.Type("The fill character must be exactly one character long")
                : PythonStrings.Pad(text, width, fill, name == "ljust" ? '<' : name == "rjust" ? '>' : '^', budget);
        }
        ,
        "zfill" => arguments => PythonStrings.ZeroFill(text, PythonOperators.ToIndex(arguments.Required(0, "width")), budget),
        "expandtabs" => arguments => PythonStrings.ExpandTabs(text, PythonOperators.ToIndex(arguments.Optional(0, "tabsize", 8L)), budget),
        _ => null,
    };

    public static string Join(string separator, object? items, Budget budget)
    {
        var result = new StringBuilder();
        int index = 0;
        foreach (object? item in PythonOperators.ItemsOrNull(items) ?? throw PythonError.Type("can only join an iterable"))
        {
            string part = item is string or Markup ? item.ToString()! : throw PythonError.Type($"sequence item {index}: expected str instance, {PythonText.TypeName(item)} found");
            budget.Grow(result.Length, (long)separator.Length + part.Length);
            result.Append(index++ > 0 ? separator : string.Empty).Append(part);
        }

        return result.ToString();
    }

    private static string? Characters(Arguments arguments)
    {
        object? characters = arguments.Optional(0, "chars");
        arguments.Done(1);
        return characters is null ? null : Text(characters, $"{arguments.Function} arg must be None or str");
    }

    private static bool Affix(string text, Arguments arguments, Func<string, string, bool> test)
    {
        bool inside = Window(text, arguments, out string part, out _);
        IEnumerable<object?> affixes = arguments[0] is PythonTuple tuple ? tuple.Items : [arguments[0]];
        string first = $"{arguments.Function} first arg must be str or a tuple of str";
        return affixes.Any(affix => test(part, Text(affix, first)) && inside);
    }

    private static long Position(string text, Arguments arguments, bool last)
    {
        bool inside = Window(text, arguments, out string part, out long start);
        string wanted = Text(arguments[0], "must be str");
        int at = !inside ? -1 : last ? part.LastIndexOf(wanted, StringComparison.Ordinal) : part.IndexOf(wanted, StringComparison.Ordinal);
        return at < 0 ? -1 : start + CodePoints.IndexOf(part, at);
    }

    // The optional start and end of find, count, startswith: a slice of the text. False when it lies behind the end.
    private static bool Window(string text, Arguments arguments, out string part, out long start)
    {
        if (arguments.Positional.Count == 0)
        {
            throw PythonError.Type($"{arguments.Function}() takes at least 1 argument (0 given)");
        }

        arguments.Done(3);
        start = 0;
        part = text;
        if (arguments.Positional.Count == 1)
        {
            return true;
        }

        long length = CodePoints.Count(text);
        start = Clamp(arguments[1], 0);
        long end = Math.Min(Clamp(arguments.Positional.Count > 2 ? arguments[2] : null, length), length);
        if (start > end)
        {
            part = string.Empty;
            return false;
        }

        part = text[CodePoints.UnitOf(text, start)..CodePoints.UnitOf(text, end)];
        return true;

        long Clamp(object? index, long otherwise)
        {
            long value = index is null ? otherwise : PythonOperators.ToIndex(index);
            return value < 0 ? Math.Max(0, value + length) : value;
        }
    }

    private static string Text(object? value, string expectation) => value is string or Markup
        ? value.ToString()!
        : throw (value as Undefined)?.Error() ?? PythonError.Type($"{expectation}, not {PythonText.TypeName(value)}");
}
