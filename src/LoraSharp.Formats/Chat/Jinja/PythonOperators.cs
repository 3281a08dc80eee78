using System.Numerics;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Python's operators: truth, length, iteration, arithmetic, membership.</summary>
internal static class PythonOperators
{
    // 10 ** 100000 and the like: an int may have as many bits as this.
    private const int MostIntegerBits = 1 << 17;

    public static bool IsNumber(object? value) => value is long or double or bool or BigInteger;

    public static bool IsInteger(object? value) => value is long or bool or BigInteger;

    public static BigInteger ToBig(object value) => value switch { long number => number, bool flag => flag ? 1 : 0, _ => (BigInteger)value };

    public static double ToDouble(object value) => value switch { double number => number, long number => number, bool flag => flag ? 1 : 0, _ => (double)(BigInteger)value };

    public static object Shrink(BigInteger value) => value >= long.MinValue && value <= long.MaxValue ? (object)(long)value : value;

    /// <summary>An index, a width or a count.</summary>
    public static long ToIndex(object? value) => value switch
    {
        long number => number,
        bool flag => flag ? 1 : 0,
        BigInteger number => number.Sign > 0 ? int.MaxValue : int.MinValue,
        Undefined undefined => throw undefined.Error(),
        _ => throw PythonError.Type($"'{PythonText.TypeName(value)}' object cannot be interpreted as an integer"),
    };

    public static bool Truth(object? value) => value switch
    {
        null or Undefined => false,
        bool flag => flag,
        long number => number != 0,
        double number => number != 0,
        BigInteger number => !number.IsZero,
        string text => text.Length > 0,
        Markup markup => markup.Text.Length > 0,
        List<object?> list => list.Count > 0,
        PythonTuple tuple => tuple.Items.Count > 0,
        PythonDict dict => dict.Count > 0,
        DictView view => view.Count > 0,
        PythonRange range => range.Count > 0,
        LoopContext loop => loop.Length > 0,
        _ => true,
    };

    public static long? LengthOrNull(object? value) => value switch
    {
        string text => CodePoints.Count(text),
        Markup markup => CodePoints.Count(markup.Text),
        List<object?> list => list.Count,
        PythonTuple tuple => tuple.Items.Count,
        PythonDict dict => dict.Count,
        DictView view => view.Count,
        PythonRange range => range.Count,
        LoopContext loop => loop.Length,
        Undefined => 0,
        _ => null,
    };

    public static IEnumerable<object?>? ItemsOrNull(object? value) => value switch
    {
        string text => CodePoints.Split(text),
        Markup markup => CodePoints.Split(markup.Text),
        List<object?> list => list,
        PythonTuple tuple => tuple.Items,
        PythonDict dict => dict.Keys,
        DictView view => view.Items,
        PythonRange range => range.Items,
        PythonIterator iterator => iterator.Rest(),
        Undefined => [],
        _ => null,
    };

    public static IEnumerable<object?> Items(object? value) => ItemsOrNull(value) ?? throw PythonError.Type($"'{PythonText.TypeName(value)}' object is not iterable");

    /// <summary>As a list of its own, paid for.</summary>
    public static List<object?> ToList(object? value, Budget budget)
    {
        var list = new List<object?>();
        foreach (object? item in Items(value))
        {
            budget.Items(1);
            list.Add(item);
        }

        return list;
    }

    public static bool Contains(object? container, object? item, Budget budget)
    {
        switch (container)
        {
            case string or Markup:
                return item is string or Markup
                    ? container.ToString()!.Contains(item.ToString()!, StringComparison.Ordinal)
                    : throw PythonError.Type($"'in <string>' requires string as left operand, not {PythonText.TypeName(item)}");
            case PythonDict dict:
                return dict.TryGet(item, out _);
            case Namespace:
                throw PythonError.Type("argument of type 'Namespace' is not iterable");
            default:
                IEnumerable<object?> items = ItemsOrNull(container) ?? throw PythonError.Type($"argument of type '{PythonText.TypeName(container)}' is not iterable");
                return items.Any(candidate =>
                {
                    budget.Step();
                    return PythonEquality.AreEqual(candidate, item);
                });
        }
    }

    public static object? Negate(object? value, bool minus)
    {
        if (value is Undefined undefined)
        {
            throw undefined.Error();
        }

        if (!IsNumber(value))
        {
            throw PythonError.Type($"bad operand type for unary {(minus ? '-' : '+')}: '{PythonText.TypeName(value)}'");
        }

        return value is double number ? (minus ? -number : number) : Shrink(minus ? -ToBig(value!) : ToBig(value!));
    }

    public static object? Binary(string symbol, object? a, object? b, Budget budget)
    {
        if (a is Undefined left)
        {
            throw left.Error();
        }

        // The text formats whatever stands on the right: '%s' % undefined is empty.
        if (symbol == "%" && a is string or Markup)
        {
            return PercentFormat.Apply(a.ToString()!, b, budget);
        }

        if (b is Undefined right)
        {
            throw right.Error();
        }

        if (IsNumber(a) && IsNumber(b))
        {
            return Arithmetic(symbol, a!, b!);
        }

        return symbol switch
        {
            "+" => Concatenate(a, b, budget),
            "*" when IsInteger(b) => Repeat(a, b!, budget) ?? throw Unsupported(symbol, a, b),
            "*" when IsInteger(a) => Repeat(b, a!, budget) ?? throw Unsupported(symbol, a, b),
            "*" when a is string or List<object?> or PythonTuple => throw PythonError.Type($"can't multiply sequence by non-int of type '{PythonText.TypeName(b)}'"),
            _ => throw Unsupported(symbol, a, b),
        };
    }

    private static object Concatenate(object? a, object? b, Budget budget)
    {
        switch (a, b)
        {
            case (string x, string y):
                budget.Characters((long)x.Length + y.Length);
                return x + y;
            case (string or Markup, Markup) or (Markup, string):
                budget.Characters((long)a.ToString()!.Length + b.ToString()!.Length);
                return new Markup(Html.Escape(a).Text + Html.Escape(b).Text);
            case (List<object?> x, List<object?> y):
                budget.Items(x.Count + y.Count);
                return new List<object?>([.. x, .. y]);
            case (PythonTuple x, PythonTuple y):
                budget.Items(x.Items.Count + y.Items.Count);
                return new PythonTuple([.. x.Items, .. y.Items]);
            case (string or List<object?> or PythonTuple, _):
                string type = PythonText.TypeName(a);
                throw PythonError.Type($"can only concatenate {type} (not \"{PythonText.TypeName(b)}\") to {type}");
            default:
                throw Unsupported("+", a, b);
        }
    }

    private static object? Repeat(object? sequence, object count, Budget budget)
    {
        long times = Math.Max(0, ToIndex(count));
        switch (sequence)
        {
            case string or Markup:
                string text = sequence.ToString()!;
                budget.Characters(checked(text.Length * Math.Min(times, int.MaxValue)));
                string repeated = new StringBuilder(text.Length * (int)times).Insert(0, text, (int)times).ToString();
                return sequence is Markup ? new Markup(repeated) : repeated;
            case List<object?> list:
                return RepeatItems(list);
            case PythonTuple tuple:
                return new PythonTuple(RepeatItems(tuple.Items));
            default:
                return null;
        }

        List<object?> RepeatItems(IReadOnlyList<object?> items)
        {
            budget.Items(checked(items.Count * Math.Min(times, int.MaxValue)));
            var result = new List<object?>();
            for (long i = 0; i < times && items.Count > 0; i++)
            {
                result.AddRange(items);
            }

            return result;
        }
    }

    private static object Arithmetic(string symbol, object a, object b)
    {
        if (symbol == "/")
        {
            double divisor = ToDouble(b);
            return divisor == 0 ? throw Zero(a is double || b is double ? "float division by zero" : "division by zero") : ToDouble(a) / divisor;
        }

        if (a is double || b is double)
        {
            return Floats(symbol, ToDouble(a), ToDouble(b));
        }

        if (a is long x && b is long y && symbol is "+" or "-" or "*")
        {
            long result = 0;
            bool overflow = symbol switch
            {
                "+" => ((x ^ (result = unchecked(x + y))) & (y ^ result)) < 0,
                "-" => ((x ^ y) & (x ^ (result = unchecked(x - y)))) < 0,
                _ => Math.BigMul(x, y, out result) != (result < 0 ? -1 : 0),
            };
            if (!overflow)
            {
                return result;
            }
        }

        BigInteger left = ToBig(a);
        BigInteger right = ToBig(b);
        switch (symbol)
        {
            case "+":
                return Shrink(left + right);
            case "-":
                return Shrink(left - right);
            case "*":
                return Bounded(left.GetBitLength() + right.GetBitLength(), () => left * right);
            case "**" when right.Sign < 0:
                return left.IsZero ? throw Zero("0.0 cannot be raised to a negative power") : Math.Pow((double)left, (double)right);
            case "**":
                return left.IsZero || left.IsOne
                    ? Shrink(right.IsZero ? 1 : left)
                    : Bounded(right > MostIntegerBits ? MostIntegerBits + 1 : (long)right * left.GetBitLength(), () => BigInteger.Pow(left, (int)right));
            default:
                if (right.IsZero)
                {
                    throw Zero(symbol == "%" ? "integer modulo by zero" : "integer division or modulo by zero");
                }

                // Python floors where .NET truncates.
                BigInteger quotient = BigInteger.DivRem(left, right, out BigInteger rest);
                bool floor = !rest.IsZero && (rest.Sign < 0) != (right.Sign < 0);
                return Shrink(symbol == "//" ? (floor ? quotient - 1 : quotient) : (floor ? rest + right : rest));
        }
    }

    private static object Floats(string symbol, double x, double y)
    {
        switch (symbol)
        {
            case "+":
                return x + y;
            case "-":
                return x - y;
            case "*":
                return x * y;
            case "**":
                double power = Math.Pow(x, y);
                return x == 0 && y < 0 ? throw Zero("0.0 cannot be raised to a negative power")
                    : double.IsInfinity(power) && double.IsFinite(x) && double.IsFinite(y) ? throw new PythonError(ErrorKind.Overflow, "(34, 'Numerical result out of range')")
                    : power;
            default:
                if (y == 0)
                {
                    throw Zero(symbol == "//" ? "float floor division by zero" : "float modulo");
                }

                double rest = x % y;
                if (rest != 0 && (rest < 0) != (y < 0))
                {
                    rest += y;
                }

                return symbol == "%" ? (rest == 0 ? Math.CopySign(0, y) : rest) : Math.Round((x - rest) / y);
        }
    }

    private static object Bounded(long bits, Func<BigInteger> compute) => bits > MostIntegerBits
        ? throw new PythonError(ErrorKind.Limit, $"the template makes an integer of more than {MostIntegerBits} bits")
        : Shrink(compute());

    private static PythonError Zero(string message) => new(ErrorKind.ZeroDivision, message);

    private static PythonError Unsupported(string symbol, object? a, object? b) =>
        PythonError.Type($"unsupported operand type(s) for {(symbol == "**" ? "** or pow()" : symbol)}: '{PythonText.TypeName(a)}' and '{PythonText.TypeName(b)}'");
}
