namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Filters that sort, group and cut sequences.</summary>
internal static partial class Filters
{
    private static object? Sort(object? value, Arguments arguments, Budget budget)
    {
        bool reverse = PythonOperators.Truth(arguments.Optional(0, "reverse", false));
        bool caseSensitive = PythonOperators.Truth(arguments.Optional(1, "case_sensitive", false));
        object? attribute = arguments.Optional(2, "attribute");
        Func<object?, object?>[] getters = attribute is string names
            ? names.Split(',').Select(name => Getter(name, null, !caseSensitive, budget)).ToArray()
            : [Getter(attribute, null, !caseSensitive, budget)];
        return Sorted(PythonOperators.ToList(value, budget), item => new PythonTuple(getters.Select(get => get(item)).ToArray()), reverse, budget);
    }

    private static object? DictSort(object? value, Arguments arguments, Budget budget)
    {
        bool caseSensitive = PythonOperators.Truth(arguments.Optional(0, "case_sensitive", false));
        object? by = arguments.Optional(1, "by", "key");
        bool reverse = PythonOperators.Truth(arguments.Optional(2, "reverse", false));
        int position = by is "key" ? 0 : by is "value" ? 1 : throw new PythonError(ErrorKind.Runtime, "You can only sort by either \"key\" or \"value\"");
        PythonDict dict = value as PythonDict ?? throw (value as Undefined)?.Error() ?? new PythonError(ErrorKind.Type, $"'{PythonText.TypeName(value)}' object has no attribute 'items'");
        List<object?> pairs = [.. dict.Select(entry => new PythonTuple([entry.Key, entry.Value]))];
        Func<object?, object?> fold = Getter(null, null, !caseSensitive, budget);
        return Sorted(pairs, pair => fold(((PythonTuple)pair!).Items[position]), reverse, budget);
    }

    public static List<object?> Sorted(List<object?> items, Func<object?, object?> key, bool reverse, Budget budget)
    {
        (object? Key, object? Item)[] pairs = [.. items.Select(item => (key(item), item))];
        // Python sorts the reversed list and reverses it again, so that equal items keep their order.
        if (reverse)
        {
            Array.Reverse(pairs);
        }

        MergeSort(pairs, new (object?, object?)[pairs.Length], 0, pairs.Length, budget);
        if (reverse)
        {
            Array.Reverse(pairs);
        }

        return [.. pairs.Select(pair => pair.Item)];
    }

    // Stable, and its comparison may fail: the sorts of .NET are or allow only one of the two.
    private static void MergeSort((object? Key, object? Item)[] pairs, (object? Key, object? Item)[] merged, int start, int end, Budget budget)
    {
        if (end - start < 2)
        {
            return;
        }

        int middle = (start + end) / 2;
        MergeSort(pairs, merged, start, middle, budget);
        MergeSort(pairs, merged, middle, end, budget);
        budget.Step(end - start);
        int left = start;
        int right = middle;
        for (int i = start; i < end; i++)
        {
            bool takeRight = left == middle || (right < end && PythonEquality.Compare(pairs[right].Key, pairs[left].Key) < 0);
            merged[i] = takeRight ? pairs[right++] : pairs[left++];
        }

        Array.Copy(merged, start, pairs, start, end - start);
    }

    private static object? GroupBy(object? value, Arguments arguments, Budget budget)
    {
        object? attribute = arguments.Required(0, "attribute");
        object? otherwise = arguments.Optional(1, "default");
        bool caseSensitive = PythonOperators.Truth(arguments.Optional(2, "case_sensitive", false));
        Func<object?, object?> key = Getter(attribute, otherwise, !caseSensitive, budget);
        Func<object?, object?> original = Getter(attribute, otherwise, false, budget);
        var groups = new List<object?>();
        List<object?>? members = null;
        object? last = null;
        foreach (object? item in Sorted(PythonOperators.ToList(value, budget), key, false, budget))
        {
            object? current = key(item);
            if (members is null || !PythonEquality.AreEqual(last, current))
            {
                members = [];
                groups.Add(new GroupTuple(caseSensitive ? current : original(item), members));
                last = current;
            }

            members.Add(item);
        }

        return groups;
    }

    private static object? Unique(object? value, Arguments arguments, Budget budget)
    {
        bool caseSensitive = PythonOperators.Truth(arguments.Optional(0, "case_sensitive", false));
        Func<object?, object?> key = Getter(arguments.Optional(1, "attribute"), null, !caseSensitive, budget);
        return PythonIterator.Generator(Run());

        IEnumerable<object?> Run()
        {
            var seen = new PythonDict();
            foreach (object? item in PythonOperators.Items(value))
            {
                budget.Step();
                object? current = key(item);
                if (!seen.TryGet(current, out _))
                {
                    seen.Set(current, null);
                    yield return item;
                }
            }
        }
    }

    private static object? Extreme(object? value, Arguments arguments, Budget budget, int sign)
    {
        bool caseSensitive = PythonOperators.Truth(arguments.Optional(0, "case_sensitive", false));
        Func<object?, object?> key = Getter(arguments.Optional(1, "attribute"), null, !caseSensitive, budget);
        object? best = null;
        object? bestKey = null;
        bool any = false;
        foreach (object? item in PythonOperators.Items(value))
        {
            budget.Step();
            object? current = key(item);
            if (!any || PythonEquality.Compare(current, bestKey, sign > 0 ? ">" : "<") == sign)
            {
                (best, bestKey, any) = (item, current, true);
            }
        }

        return any ? best : new Undefined("No aggregated item, sequence was empty.");
    }

    private static object? Sum(object? value, Arguments arguments, Budget budget)
    {
        Func<object?, object?> get = Getter(arguments.Optional(0, "attribute"), null, false, budget);
        object? total = arguments.Optional(1, "start", 0L);
        if (total is string)
        {
            throw PythonError.Type("sum() can't sum strings [use ''.join(seq) instead]");
        }

        foreach (object? item in PythonOperators.Items(value))
        {
            budget.Step();
            total = PythonOperators.Binary("+", total, get(item), budget);
        }

        return total;
    }

    private static object? Batch(object? value, Arguments arguments, Budget budget)
    {
        long size = PythonOperators.ToIndex(arguments.Required(0, "linecount"));
        object? fill = arguments.Optional(1, "fill_with");
        return PythonIterator.Generator(Run());

        IEnumerable<object?> Run()
        {
            var row = new List<object?>();
            foreach (object? item in PythonOperators.Items(value))
            {
                budget.Step();
                if (row.Count == size)
                {
                    yield return row;
                    row = [];
                }

                row.Add(item);
            }

            if (row.Count > 0)
            {
                budget.Items(Math.Max(0, size));
                while (fill is not null && row.Count < size)
                {
                    row.Add(fill);
                }

                yield return row;
            }
        }
    }

    private static object? Slice(object? value, Arguments arguments, Budget budget)
    {
        long slices = PythonOperators.ToIndex(arguments.Required(0, "slices"));
        object? fill = arguments.Optional(1, "fill_with");
        return PythonIterator.Generator(Run());

        IEnumerable<object?> Run()
        {
            List<object?> items = PythonOperators.ToList(value, budget);
            if (slices == 0)
            {
                throw new PythonError(ErrorKind.ZeroDivision, "integer division or modulo by zero");
            }

            long each = items.Count / slices;
            long longer = items.Count % slices;
            int start = 0;
            for (long i = 0; i < slices; i++)
            {
                budget.Step();
                int count = (int)(each + (i < longer ? 1 : 0));
                List<object?> part = items.GetRange(start, count);
                start += count;
                if (fill is not null && i >= longer)
                {
                    part.Add(fill);
                }

                yield return part;
            }
        }
    }
}
