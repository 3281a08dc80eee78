namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Functions that every template can call: Jinja's, and the two that transformers adds.</summary>
internal static class Globals
{
    // jinja2.sandbox.MAX_RANGE
    private const long LongestRange = 100_000;

    public static Scope Create(Budget budget, Func<DateTime> now)
    {
        var scope = new Scope(null);
        Add("range", Range);
        Add("dict", arguments => CreateDict(arguments, budget));
        Add("namespace", arguments => new Namespace(CreateDict(arguments, budget)));
        Add("cycler", arguments => arguments.Positional.Count == 0
            ? throw new PythonError(ErrorKind.Runtime, "at least one item has to be provided")
            : new Cycler(arguments.Positional));
        Add("joiner", Joiner);
        Add("raise_exception", arguments => throw new PythonError(ErrorKind.Template, PythonText.Str(arguments.Required(0, "message"))));
        Add("strftime_now", arguments => Strftime.Format(now(), arguments.Required(0, "format") as string ?? throw PythonError.Type("strftime() argument 1 must be str")));
        return scope;

        void Add(string name, Func<Arguments, object?> call) => scope.Set(name, new Function(name, call));
    }

    private static PythonRange Range(Arguments arguments)
    {
        if (arguments.Positional.Count is 0 or > 3)
        {
            throw PythonError.Type($"range expected at {(arguments.Positional.Count == 0 ? "least 1 argument" : "most 3 arguments")}, got {arguments.Positional.Count}");
        }

        long[] values = arguments.Positional.Select(PythonOperators.ToIndex).ToArray();
        long step = values.Length > 2 ? values[2] : 1;
        if (step == 0)
        {
            throw PythonError.Value("range() arg 3 must not be zero");
        }

        var range = values.Length == 1 ? new PythonRange(0, values[0], 1) : new PythonRange(values[0], values[1], step);
        return range.Count <= LongestRange
            ? range
            : throw new PythonError(ErrorKind.Overflow, $"Range too big. The sandbox blocks ranges larger than MAX_RANGE ({LongestRange}).");
    }

    private static PythonDict CreateDict(Arguments arguments, Budget budget)
    {
        var dict = new PythonDict();
        if (arguments.Positional.Count > 1)
        {
            throw PythonError.Type($"dict expected at most 1 argument, got {arguments.Positional.Count}");
        }

        if (arguments.Positional.Count == 1)
        {
            if (arguments[0] is PythonDict other)
            {
                foreach ((object? key, object? value) in other)
                {
                    budget.Items(1);
                    dict.Set(key, value);
                }
            }
            else
            {
                foreach (object? pair in PythonOperators.Items(arguments[0]))
                {
                    List<object?> items = PythonOperators.ToList(pair, budget);
                    dict.Set(items.Count == 2 ? items[0] : throw PythonError.Value($"dictionary update sequence element #{dict.Count} has length {items.Count}; 2 is required"), items[1]);
                }
            }
        }

        foreach ((string name, object? value) in arguments.Keywords)
        {
            dict.Set(name, value);
        }

        return dict;
    }

    private static Function Joiner(Arguments arguments)
    {
        string separator = PythonText.Str(arguments.Optional(0, "sep", ", "));
        bool used = false;
        return new Function("joiner", _ =>
        {
            string result = used ? separator : string.Empty;
            used = true;
            return result;
        }, "Joiner");
    }
}
