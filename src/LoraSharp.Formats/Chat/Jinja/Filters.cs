namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Jinja's built-in filters (Template Designer documentation, "List of Builtin Filters"), and transformers' <c>tojson</c>.</summary>
internal static partial class Filters
{
    private static readonly Dictionary<string, Func<object?, Arguments, Budget, object?>> Table = new()
    {
        ["abs"] = Abs,
        ["attr"] = (value, arguments, budget) => Members.GetAttributeOnly(value, PythonText.Str(arguments.Required(0, "name")), budget),
        ["batch"] = Batch,
        ["capitalize"] = (value, _, _) => UnicodeCase.Capitalize(PythonText.Str(value)),
        ["center"] = Center,
        ["count"] = Length,
        ["d"] = Default,
        ["default"] = Default,
        ["dictsort"] = DictSort,
        ["e"] = (value, _, _) => Html.Escape(value),
        ["escape"] = (value, _, _) => Html.Escape(value),
        ["filesizeformat"] = FileSize,
        ["first"] = First,
        ["float"] = ToFloat,
        ["forceescape"] = (value, _, _) => Html.Escape(PythonText.Str(value)),
        ["format"] = Format,
        ["groupby"] = GroupBy,
        ["indent"] = Indent,
        ["int"] = ToInt,
        ["items"] = Items,
        ["join"] = Join,
        ["last"] = Last,
        ["length"] = Length,
        ["list"] = (value, _, budget) => PythonOperators.ToList(value, budget),
        ["lower"] = (value, _, _) => UnicodeCase.Lower(PythonText.Str(value)),
        ["map"] = Map,
        ["max"] = (value, arguments, budget) => Extreme(value, arguments, budget, 1),
        ["min"] = (value, arguments, budget) => Extreme(value, arguments, budget, -1),
        ["pprint"] = (value, _, _) => PythonText.Repr(value),
        ["random"] = First,
        ["reject"] = (value, arguments, budget) => Select(value, arguments, budget, keep: false, byAttribute: false),
        ["rejectattr"] = (value, arguments, budget) => Select(value, arguments, budget, keep: false, byAttribute: true),
        ["replace"] = Replace,
        ["reverse"] = Reverse,
        ["round"] = Round,
        ["safe"] = (value, _, _) => new Markup(PythonText.Str(value)),
        ["select"] = (value, arguments, budget) => Select(value, arguments, budget, keep: true, byAttribute: false),
        ["selectattr"] = (value, arguments, budget) => Select(value, arguments, budget, keep: true, byAttribute: true),
        ["slice"] = Slice,
        ["sort"] = Sort,
        ["string"] = (value, _, _) => value is Markup ? value : PythonText.Str(value),
        ["striptags"] = (value, _, _) => Html.StripTags(PythonText.Str(value)),
        ["sum"] = Sum,
        ["title"] = Title,
        ["tojson"] = ToJson,
        ["trim"] = Trim,
        ["truncate"] = Truncate,
        ["unique"] = Unique,
        ["upper"] = (value, _, _) => UnicodeCase.Upper(PythonText.Str(value)),
        ["urlencode"] = UrlEncode,
        ["urlize"] = (value, _, _) => PythonText.Str(value),
        ["wordcount"] = WordCount,
        ["wordwrap"] = WordWrap,
        ["xmlattr"] = XmlAttributes,
    };

    public static bool Exists(string name) => Table.ContainsKey(name);

    public static object? Apply(string name, object? value, Arguments arguments, Budget budget) => Table.TryGetValue(name, out var filter)
        ? filter(value, arguments, budget)
        : throw new PythonError(ErrorKind.Runtime, $"No filter named {PythonText.Repr(name)} found.");

    private static object? Default(object? value, Arguments arguments, Budget budget)
    {
        object? otherwise = arguments.Optional(0, "default_value", string.Empty);
        bool falsy = PythonOperators.Truth(arguments.Optional(1, "boolean", false));
        return value is Undefined || (falsy && !PythonOperators.Truth(value)) ? otherwise : value;
    }

    private static object? Length(object? value, Arguments arguments, Budget budget) =>
        PythonOperators.LengthOrNull(value) ?? throw PythonError.Type($"object of type '{PythonText.TypeName(value)}' has no len()");

    private static object? First(object? value, Arguments arguments, Budget budget)
    {
        foreach (object? item in PythonOperators.Items(value))
        {
            return item;
        }

        return new Undefined("No first item, sequence was empty.");
    }

    private static object? Last(object? value, Arguments arguments, Budget budget)
    {
        List<object?> items = value is PythonIterator ? throw PythonError.Type($"'{PythonText.TypeName(value)}' object is not reversible") : PythonOperators.ToList(value, budget);
        return items.Count > 0 ? items[^1] : new Undefined("No last item, sequence was empty.");
    }

    private static object? Items(object? value, Arguments arguments, Budget budget) => value switch
    {
        Undefined => PythonIterator.Generator([]),
        PythonDict dict => PythonIterator.Generator(dict.Select(entry => new PythonTuple([entry.Key, entry.Value]))),
        // A generator fails when it is gone through, not when it is made.
        _ => PythonIterator.Generator(Enumerable.Repeat(value, 1).Select(object? (_) => throw PythonError.Type("Can only get item pairs from a mapping."))),
    };

    private static object? Reverse(object? value, Arguments arguments, Budget budget)
    {
        if (value is string or Markup)
        {
            return Members.Slice(value, null, null, -1L, budget);
        }

        List<object?> items = PythonOperators.ItemsOrNull(value) is null ? throw new PythonError(ErrorKind.Runtime, "argument must be iterable") : PythonOperators.ToList(value, budget);
        items.Reverse();
        return value switch
        {
            List<object?> => new PythonIterator("list_reverseiterator", items),
            PythonIterator or Undefined => items,
            PythonDict => new PythonIterator("dict_reversekeyiterator", items),
            PythonRange => new PythonIterator("range_iterator", items),
            _ => new PythonIterator("reversed", items),
        };
    }

    private static object? Join(object? value, Arguments arguments, Budget budget)
    {
        string separator = PythonText.Str(arguments.Optional(0, "d", string.Empty));
        object? attribute = arguments.Optional(1, "attribute");
        Func<object?, object?> get = Getter(attribute, null, false, budget);
        return StringMethods.Join(separator, PythonIterator.Generator(PythonOperators.Items(value).Select(item => (object?)PythonText.Str(get(item)))), budget);
    }

    private static object? Map(object? value, Arguments arguments, Budget budget)
    {
        return PythonIterator.Generator(Run());

        IEnumerable<object?> Run()
        {
            if (!PythonOperators.Truth(value))
            {
                yield break;
            }

            Func<object?, object?> apply;
            if (arguments.Positional.Count == 0 && arguments.TryTakeKeyword("attribute", out object? attribute))
            {
                arguments.TryTakeKeyword("default", out object? otherwise);
                if (arguments.Keywords.Count > 0)
                {
                    throw new PythonError(ErrorKind.Runtime, $"Unexpected keyword argument {PythonText.Repr(arguments.Keywords[0].Key)}");
                }

                apply = Getter(attribute, otherwise, false, budget);
            }
            else
            {
                string name = arguments.Positional.Count > 0 ? PythonText.Str(arguments[0]) : throw new PythonError(ErrorKind.Runtime, "map requires a filter argument");
                if (!Exists(name))
                {
                    throw new PythonError(ErrorKind.Runtime, $"No filter named {PythonText.Repr(name)}.");
                }

                apply = item => Apply(name, item, new Arguments(name, [.. arguments.Positional.Skip(1)], [.. arguments.Keywords]), budget);
            }

            foreach (object? item in PythonOperators.Items(value))
            {
                budget.Step();
                yield return apply(item);
            }
        }
    }

    private static object? Select(object? value, Arguments arguments, Budget budget, bool keep, bool byAttribute)
    {
        return PythonIterator.Generator(Run());

        IEnumerable<object?> Run()
        {
            if (!PythonOperators.Truth(value))
            {
                yield break;
            }

            int skip = byAttribute ? 1 : 0;
            if (arguments.Positional.Count < skip)
            {
                throw new PythonError(ErrorKind.Runtime, "Missing parameter for attribute name");
            }

            Func<object?, object?> get = byAttribute ? Getter(arguments[0], null, false, budget) : item => item;
            string? test = arguments.Positional.Count > skip ? PythonText.Str(arguments[skip]) : null;
            if (test is not null && !Tests.Exists(test))
            {
                throw new PythonError(ErrorKind.Runtime, $"No test named {PythonText.Repr(test)}.");
            }

            foreach (object? item in PythonOperators.Items(value))
            {
                budget.Step();
                object? subject = get(item);
                bool passes = test is null
                    ? PythonOperators.Truth(subject)
                    : Tests.Apply(test, subject, new Arguments(test, [.. arguments.Positional.Skip(skip + 1)], [.. arguments.Keywords]), budget);
                if (passes == keep)
                {
                    yield return item;
                }
            }
        }
    }

    /// <summary>How filters read <c>attribute="a.b.0"</c>.</summary>
    private static Func<object?, object?> Getter(object? attribute, object? otherwise, bool foldCase, Budget budget)
    {
        List<object?> parts = attribute switch
        {
            null => [],
            string or Markup => [.. attribute.ToString()!.Split('.').Select(part => long.TryParse(part, out long index) && part.All(char.IsAsciiDigit) ? (object?)index : part)],
            _ => [attribute],
        };
        return item =>
        {
            foreach (object? part in parts)
            {
                item = Members.GetItem(item, part, budget);
                item = item is Undefined && otherwise is not null ? otherwise : item;
            }

            return foldCase && item is string or Markup ? UnicodeCase.Lower(item.ToString()!) : item;
        };
    }
}
