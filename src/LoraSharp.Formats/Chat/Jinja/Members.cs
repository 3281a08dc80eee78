namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>
/// <c>x.name</c>, <c>x[key]</c> and <c>x[a:b:c]</c>. Only what is listed here exists: there is no way from a template to
/// .NET objects, and what would change a list or a dict is refused (Jinja's ImmutableSandboxedEnvironment).
/// </summary>
internal static class Members
{
    /// <summary><c>x.name</c>: an attribute first, then an element.</summary>
    public static object? GetAttribute(object? target, string name, Budget budget)
    {
        if (target is Undefined undefined)
        {
            throw undefined.Error();
        }

        return TryAttribute(target, name, budget, out object? value) || TryElement(target, name, budget, out value) ? value : Undefined.Member(target, name);
    }

    /// <summary><c>x[key]</c>: an element first, then, for a text, an attribute.</summary>
    public static object? GetItem(object? target, object? key, Budget budget)
    {
        if (target is Undefined undefined)
        {
            throw undefined.Error();
        }

        return TryElement(target, key, budget, out object? value) || (key is string name && TryAttribute(target, name, budget, out value)) ? value : Undefined.Member(target, key);
    }

    /// <summary>The attribute alone, as the <c>attr</c> filter wants it.</summary>
    public static object? GetAttributeOnly(object? target, string name, Budget budget) => TryAttribute(target, name, budget, out object? value) ? value : Undefined.Member(target, name);

    private static bool TryElement(object? target, object? key, Budget budget, out object? value)
    {
        value = null;
        switch (target)
        {
            case PythonDict dict when key is not (List<object?> or PythonDict):
                return dict.TryGet(key, out value);
            case Namespace when key is string:
                return false;
            case string or Markup or List<object?> or PythonTuple or PythonRange when PythonOperators.IsInteger(key):
                long length = PythonOperators.LengthOrNull(target)!.Value;
                long index = PythonOperators.ToIndex(key);
                index += index < 0 ? length : 0;
                if (index < 0 || index >= length)
                {
                    return false;
                }

                value = target switch
                {
                    List<object?> list => list[(int)index],
                    PythonTuple tuple => tuple.Items[(int)index],
                    PythonRange range => range.At(index),
                    _ => CharacterAt(target.ToString()!, index, budget),
                };
                return true;
            default:
                return false;
        }
    }

    private static string CharacterAt(string text, long index, Budget budget)
    {
        if (!CodePoints.HasPairs(text))
        {
            return text[(int)index].ToString();
        }

        budget.Characters(text.Length);
        int unit = CodePoints.UnitOf(text, index);
        return text[unit..CodePoints.UnitOf(text, index + 1)];
    }

    private static bool TryAttribute(object? target, string name, Budget budget, out object? value)
    {
        if (target is Namespace space)
        {
            return space.Attributes.TryGet(name, out value);
        }

        if (name.StartsWith("__", StringComparison.Ordinal) && name.EndsWith("__", StringComparison.Ordinal))
        {
            value = Undefined.Unsafe(target, name);
            return true;
        }

        value = target switch
        {
            PythonDict dict => OfDict(dict, name, budget),
            List<object?> list => OfList(list, name),
            PythonTuple tuple => OfTuple(tuple, name),
            string or Markup => StringMethods.Find(target.ToString()!, name, budget),
            LoopContext loop => loop.Attribute(name),
            Macro macro => OfMacro(macro, name),
            Cycler cycler => OfCycler(cycler, name),
            double number when name == "is_integer" => Method(name, _ => double.IsFinite(number) && number == Math.Floor(number)),
            long or bool when name == "bit_length" => Method(name, _ => (long)System.Numerics.BigInteger.Abs(PythonOperators.ToBig(target)).GetBitLength()),
            long or double or bool when name == "real" => target is bool ? PythonOperators.ToIndex(target) : target,
            _ => Missing.Value,
        };
        return value is not Missing;
    }

    private static object? OfDict(PythonDict dict, string name, Budget budget) => name switch
    {
        "items" => Method(name, _ => new DictView("dict_items", dict, entry => new PythonTuple([entry.Key, entry.Value]))),
        "keys" => Method(name, _ => new DictView("dict_keys", dict, entry => entry.Key)),
        "values" => Method(name, _ => new DictView("dict_values", dict, entry => entry.Value)),
        "get" => new Function("get", arguments =>
        {
            object? key = arguments.Positional.Count > 0 ? arguments[0] : throw PythonError.Type("get expected at least 1 argument, got 0");
            return dict.TryGet(key, out object? found) ? found : arguments.Positional.Count > 1 ? arguments[1] : null;
        }, "builtin_function_or_method"),
        "copy" => Method(name, _ =>
        {
            budget.Items(dict.Count);
            var copy = new PythonDict();
            foreach ((object? key, object? item) in dict)
            {
                copy.Set(key, item);
            }

            return copy;
        }),
        "clear" or "pop" or "popitem" or "setdefault" or "update" => Undefined.Unsafe(dict, name),
        _ => Missing.Value,
    };

    private static object? OfList(List<object?> list, string name) => name switch
    {
        "append" or "clear" or "pop" or "reverse" or "insert" or "sort" or "extend" or "remove" => Undefined.Unsafe(list, name),
        "copy" => Method(name, _ => new List<object?>(list)),
        _ => OfSequence(list, name),
    };

    private static object? OfTuple(PythonTuple tuple, string name) => (tuple, name) switch
    {
        (GroupTuple, "grouper") => tuple.Items[0],
        (GroupTuple, "list") => tuple.Items[1],
        _ => OfSequence(tuple.Items, name),
    };

    private static object? OfSequence(IReadOnlyList<object?> items, string name) => name switch
    {
        "count" => Method(name, arguments => (long)items.Count(item => PythonEquality.AreEqual(item, arguments[0])), 1),
        "index" => Method(name, arguments => items.Index().Where(pair => PythonEquality.AreEqual(pair.Item, arguments[0])).Select(pair => (object?)(long)pair.Index).FirstOrDefault()
            ?? throw PythonError.Value($"{PythonText.Repr(arguments[0])} is not in list"), 1),
        _ => Missing.Value,
    };

    private static object? OfMacro(Macro macro, string name) => name switch
    {
        "name" => macro.Name,
        "arguments" => new PythonTuple(macro.Parameters.ToArray<object?>()),
        "catch_kwargs" => macro.Uses("kwargs"),
        "catch_varargs" => macro.Uses("varargs"),
        "caller" => macro.Uses("caller"),
        _ => Missing.Value,
    };

    private static object? OfCycler(Cycler cycler, string name) => name switch
    {
        "current" => cycler.Current,
        "next" => Method(name, _ => cycler.Next()),
        "reset" => Method(name, _ =>
        {
            cycler.Reset();
            return null;
        }),
        _ => Missing.Value,
    };

    private static Function Method(string name, Func<Arguments, object?> call, int parameters = 0) => new(name, arguments =>
    {
        if (arguments.Positional.Count != parameters || arguments.Keywords.Count > 0)
        {
            throw PythonError.Type(parameters == 0 ? $"{name}() takes no arguments ({arguments.Positional.Count} given)" : $"{name}() takes exactly {parameters} argument ({arguments.Positional.Count} given)");
        }

        return call(arguments);
    }, "builtin_function_or_method");

    public static object? Slice(object? target, object? start, object? stop, object? step, Budget budget)
    {
        if (target is Undefined undefined)
        {
            throw undefined.Error();
        }

        if (target is not (string or Markup or List<object?> or PythonTuple or PythonRange))
        {
            throw PythonError.Type(target is PythonDict ? "unhashable type: 'slice'" : $"'{PythonText.TypeName(target)}' object is not subscriptable");
        }

        long length = PythonOperators.LengthOrNull(target)!.Value;
        long stride = step is null ? 1 : Index(step);
        if (stride == 0)
        {
            throw PythonError.Value("slice step cannot be zero");
        }

        // Python reference, "slice.indices".
        long lowest = stride > 0 ? 0 : -1;
        long highest = stride > 0 ? length : length - 1;
        long from = start is null ? (stride > 0 ? lowest : highest) : Clamp(Index(start));
        long to = stop is null ? (stride > 0 ? highest : lowest) : Clamp(Index(stop));
        if (target is string or Markup)
        {
            string text = SliceText(target.ToString()!, from, to, stride, budget);
            return target is Markup ? new Markup(text) : text;
        }

        if (target is PythonRange range && from >= 0)
        {
            return new PythonRange(RangeAt(range, from), RangeAt(range, to), stride * (RangeAt(range, 1) - RangeAt(range, 0)));
        }

        var items = new List<object?>();
        for (long i = from; stride > 0 ? i < to : i > to; i += stride)
        {
            budget.Items(1);
            items.Add(target is PythonTuple tuple ? tuple.Items[(int)i] : target is PythonRange whole ? whole.At(i) : ((List<object?>)target)[(int)i]);
        }

        return target is PythonTuple ? new PythonTuple(items) : items;

        long Clamp(long index) => Math.Clamp(index < 0 ? index + length : index, lowest, highest);

        static long Index(object? index) => PythonOperators.IsInteger(index)
            ? PythonOperators.ToIndex(index)
            : throw (index as Undefined)?.Error() ?? PythonError.Type("slice indices must be integers or None or have an __index__ method");

        static long RangeAt(PythonRange range, long index) => (long)range.At(index);
    }

    private static string SliceText(string text, long from, long to, long stride, Budget budget)
    {
        budget.Characters(text.Length);
        if (stride == 1)
        {
            return from >= to ? string.Empty : text[CodePoints.UnitOf(text, from)..CodePoints.UnitOf(text, to)];
        }

        string[] points = [.. CodePoints.Split(text)];
        var result = new System.Text.StringBuilder();
        for (long i = from; stride > 0 ? i < to : i > to; i += stride)
        {
            result.Append(points[i]);
        }

        return result.ToString();
    }

    /// <summary>What stands for "there is no such attribute", since null is Python's None.</summary>
    internal sealed class Missing
    {
        public static readonly Missing Value = new();
    }
}
