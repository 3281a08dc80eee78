using System.Numerics;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Jinja's built-in tests: what stands behind <c>is</c>.</summary>
internal static class Tests
{
    private static readonly HashSet<string> Names =
    [
        "odd", "even", "divisibleby", "defined", "undefined", "filter", "test", "none", "boolean", "false", "true", "integer", "float", "lower", "upper",
        "string", "mapping", "number", "sequence", "iterable", "callable", "sameas", "escaped", "in", "==", "eq", "equalto", "!=", "ne", ">", "gt",
        "greaterthan", "ge", ">=", "<", "lt", "lessthan", "<=", "le",
    ];

    public static bool Exists(string name) => Names.Contains(name);

    public static bool Apply(string name, object? value, Arguments arguments, Budget budget)
    {
        budget.Step();
        switch (name)
        {
            case "odd" or "even":
                return PythonEquality.AreEqual(PythonOperators.Binary("%", value, 2L, budget), name == "odd" ? 1L : 0L);
            case "divisibleby":
                return PythonEquality.AreEqual(PythonOperators.Binary("%", value, arguments.Required(0, "num"), budget), 0L);
            case "defined":
                return value is not Undefined;
            case "undefined":
                return value is Undefined;
            case "filter":
                return value is string filter && Filters.Exists(filter);
            case "test":
                return value is string test && Exists(test);
            case "none":
                return value is null;
            case "boolean":
                return value is bool;
            case "false" or "true":
                return value is bool flag && flag == (name == "true");
            case "integer":
                return value is long or BigInteger;
            case "float":
                return value is double;
            case "lower" or "upper":
                return UnicodeCase.IsAll(PythonText.Str(value), name == "lower" ? System.Globalization.UnicodeCategory.LowercaseLetter : System.Globalization.UnicodeCategory.UppercaseLetter);
            case "string":
                return value is string or Markup;
            case "mapping":
                return value is PythonDict;
            case "number":
                return PythonOperators.IsNumber(value);
            case "sequence":
                return value is string or Markup or List<object?> or PythonTuple or PythonDict or PythonRange or Undefined;
            case "iterable":
                return PythonOperators.ItemsOrNull(value) is not null || value is LoopContext;
            case "callable":
                return value is Function or Macro or Undefined or LoopContext;
            case "sameas":
                return IsSame(value, arguments.Required(0, "other"));
            case "escaped":
                return value is Markup;
            case "in":
                return PythonOperators.Contains(arguments.Required(0, "seq"), value, budget);
        }

        string symbol = name switch
        {
            "==" or "eq" or "equalto" => "==",
            "!=" or "ne" => "!=",
            ">" or "gt" or "greaterthan" => ">",
            ">=" or "ge" => ">=",
            "<" or "lt" or "lessthan" => "<",
            "<=" or "le" => "<=",
            _ => throw new PythonError(ErrorKind.Runtime, $"No test named {PythonText.Repr(name)} found."),
        };
        return Compare(symbol, value, arguments.Required(0, "b"), budget);
    }

    public static bool Compare(string symbol, object? a, object? b, Budget budget) => symbol switch
    {
        "==" => PythonEquality.AreEqual(a, b),
        "!=" => !PythonEquality.AreEqual(a, b),
        "in" => PythonOperators.Contains(b, a, budget),
        "not in" => !PythonOperators.Contains(b, a, budget),
        "<" => PythonEquality.Compare(a, b, symbol) < 0,
        "<=" => PythonEquality.Compare(a, b, symbol) <= 0,
        ">" => PythonEquality.Compare(a, b, symbol) == 1,
        _ => PythonEquality.Compare(a, b, symbol) is 0 or 1,
    };

    // Small values are one object in Python too.
    private static bool IsSame(object? a, object? b) => ReferenceEquals(a, b) || (a, b) switch
    {
        (bool x, bool y) => x == y,
        (long x, long y) => x == y,
        (string x, string y) => x == y,
        _ => false,
    };
}
