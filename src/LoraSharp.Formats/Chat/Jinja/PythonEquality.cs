using System.Numerics;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Python's <c>==</c> and <c>hash</c>, in which numbers of different types are equal, and its <c>&lt;</c>.</summary>
internal sealed class PythonEquality : IEqualityComparer<object>
{
    public static readonly PythonEquality Instance = new();

    bool IEqualityComparer<object>.Equals(object? a, object? b) => AreEqual(a, b);

    public int GetHashCode(object value) => value switch
    {
        bool flag => flag ? 1 : 0,
        long number => number.GetHashCode(),
        double number when number == Math.Floor(number) && Math.Abs(number) < 1e15 => ((long)number).GetHashCode(),
        double number => number.GetHashCode(),
        BigInteger number => ((double)number).GetHashCode(),
        Markup markup => markup.Text.GetHashCode(StringComparison.Ordinal),
        PythonTuple tuple => tuple.Items.Aggregate(17, (hash, item) => (hash * 31) + (item is null ? 0 : GetHashCode(item))),
        Undefined => 7,
        _ => value.GetHashCode(),
    };

    public static void RequireHashable(object? value)
    {
        if (value is List<object?> or PythonDict)
        {
            throw PythonError.Type($"unhashable type: '{PythonText.TypeName(value)}'");
        }

        if (value is PythonTuple tuple)
        {
            foreach (object? item in tuple.Items)
            {
                RequireHashable(item);
            }
        }
    }

    public static bool AreEqual(object? a, object? b)
    {
        Budget.Depth();
        if (ReferenceEquals(a, b))
        {
            return a is not double number || !double.IsNaN(number);
        }

        if (PythonOperators.IsNumber(a) && PythonOperators.IsNumber(b))
        {
            return CompareNumbers(a!, b!) == 0;
        }

        return (a, b) switch
        {
            (string or Markup, string or Markup) => a!.ToString() == b!.ToString(),
            (List<object?> x, List<object?> y) => SameItems(x, y),
            (PythonTuple x, PythonTuple y) => SameItems(x.Items, y.Items),
            (PythonDict x, PythonDict y) => x.Count == y.Count && x.All(entry => y.TryGet(entry.Key, out object? other) && AreEqual(entry.Value, other)),
            (Undefined, Undefined) => true,
            (PythonRange x, PythonRange y) => x.Items.SequenceEqual(y.Items),
            _ => false,
        };
    }

    /// <summary>Less than, as Python orders values of one kind; a TypeError for others.</summary>
    public static int Compare(object? a, object? b, string symbol = "<")
    {
        Budget.Depth();
        if (PythonOperators.IsNumber(a) && PythonOperators.IsNumber(b))
        {
            return CompareNumbers(a!, b!);
        }

        switch (a, b)
        {
            case (string or Markup, string or Markup):
                return CompareTexts(a!.ToString()!, b!.ToString()!);
            case (List<object?> x, List<object?> y):
                return CompareItems(x, y, symbol);
            case (PythonTuple x, PythonTuple y):
                return CompareItems(x.Items, y.Items, symbol);
            case (Undefined undefined, _):
                throw undefined.Error();
            case (_, Undefined undefined):
                throw undefined.Error();
            default:
                throw PythonError.Type($"'{symbol}' not supported between instances of '{PythonText.TypeName(a)}' and '{PythonText.TypeName(b)}'");
        }
    }

    // NaN is unordered: 2 is neither less, equal nor greater.
    private static int CompareNumbers(object a, object b)
    {
        if (a is not double && b is not double)
        {
            return Math.Sign(PythonOperators.ToBig(a).CompareTo(PythonOperators.ToBig(b)));
        }

        double x = PythonOperators.ToDouble(a);
        double y = PythonOperators.ToDouble(b);
        if (double.IsNaN(x) || double.IsNaN(y))
        {
            return 2;
        }

        // A large int is compared exactly, not as the nearest double.
        bool exact = double.IsFinite(x) && double.IsFinite(y) && Math.Max(Math.Abs(x), Math.Abs(y)) > 1L << 53 && x == y;
        return Math.Sign(exact ? ToExact(a).CompareTo(ToExact(b)) : x.CompareTo(y));
    }

    private static BigInteger ToExact(object value) => value is double number ? new BigInteger(number) : PythonOperators.ToBig(value);

    /// <summary>By code points, which differs from UTF-16 order where surrogates meet U+E000 and above.</summary>
    private static int CompareTexts(string a, string b)
    {
        int length = Math.Min(a.Length, b.Length);
        for (int i = 0; i < length; i++)
        {
            if (a[i] != b[i])
            {
                return char.IsSurrogate(a[i]) != char.IsSurrogate(b[i]) ? (char.IsSurrogate(a[i]) ? 1 : -1) : Math.Sign(a[i].CompareTo(b[i]));
            }
        }

        return a.Length.CompareTo(b.Length);
    }

    private static bool SameItems(IReadOnlyList<object?> a, IReadOnlyList<object?> b)
    {
        if (a.Count != b.Count)
        {
            return false;
        }

        for (int i = 0; i < a.Count; i++)
        {
            if (!AreEqual(a[i], b[i]))
            {
                return false;
            }
        }

        return true;
    }

    private static int CompareItems(IReadOnlyList<object?> a, IReadOnlyList<object?> b, string symbol)
    {
        for (int i = 0; i < Math.Min(a.Count, b.Count); i++)
        {
            if (!AreEqual(a[i], b[i]))
            {
                return Compare(a[i], b[i], symbol);
            }
        }

        return a.Count.CompareTo(b.Count);
    }
}
