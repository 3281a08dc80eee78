using System.Collections;
using System.Diagnostics.CodeAnalysis;

namespace LoraSharp.Formats.Chat.Jinja;

// What a template can hold, in .NET: null, bool, long or BigInteger (Python's int), double, string, List<object?>, and
// the types below.

/// <summary>Something that was not there: empty where it is printed or iterated, an error where it is used.</summary>
internal sealed class Undefined(string message, ErrorKind kind = ErrorKind.Undefined)
{
    public string Message => message;

    public PythonError Error() => new(kind, message);

    public static Undefined Variable(string name) => new($"{PythonText.Repr(name)} is undefined");

    public static Undefined Member(object? target, object? name) => new(name is string or Markup
        ? $"{PythonText.Repr(PythonText.ObjectType(target))} has no attribute {PythonText.Repr(name)}"
        : $"{PythonText.ObjectType(target)} has no element {PythonText.Repr(name)}");

    public static Undefined Unsafe(object? target, string name) => new($"access to attribute {PythonText.Repr(name)} of {PythonText.Repr(PythonText.TypeName(target))} object is unsafe.", ErrorKind.Security);
}

/// <summary>A text that the <c>escape</c> or <c>safe</c> filter marked as HTML: what is added to it is escaped.</summary>
internal sealed record Markup(string Text)
{
    public override string ToString() => Text;
}

internal class PythonTuple(IReadOnlyList<object?> items)
{
    public IReadOnlyList<object?> Items => items;
}

/// <summary>What <c>groupby</c> gives: a pair with names.</summary>
internal sealed class GroupTuple(object? grouper, List<object?> list) : PythonTuple([grouper, list]);

/// <summary>A dict: insertion order, Python's equality of keys (1 = 1.0 = True).</summary>
internal sealed class PythonDict : IEnumerable<KeyValuePair<object?, object?>>
{
    private static readonly object NoneKey = new();

    private readonly Dictionary<object, int> _index = new(PythonEquality.Instance);
    private readonly List<KeyValuePair<object?, object?>> _entries = [];

    public int Count => _entries.Count;

    public IEnumerable<object?> Keys => _entries.Select(entry => entry.Key);

    public IEnumerable<object?> Values => _entries.Select(entry => entry.Value);

    public void Set(object? key, object? value)
    {
        PythonEquality.RequireHashable(key);
        if (_index.TryGetValue(key ?? NoneKey, out int at))
        {
            _entries[at] = new(_entries[at].Key, value);
        }
        else
        {
            _index.Add(key ?? NoneKey, _entries.Count);
            _entries.Add(new(key, value));
        }
    }

    public bool TryGet(object? key, out object? value)
    {
        PythonEquality.RequireHashable(key);
        bool found = _index.TryGetValue(key ?? NoneKey, out int at);
        value = found ? _entries[at].Value : null;
        return found;
    }

    public IEnumerator<KeyValuePair<object?, object?>> GetEnumerator() => _entries.GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}

/// <summary><c>dict.keys()</c>, <c>.values()</c>, <c>.items()</c>: a view, which has a length but no elements by number.</summary>
internal sealed class DictView(string typeName, PythonDict dict, Func<KeyValuePair<object?, object?>, object?> select)
{
    public string TypeName => typeName;

    public int Count => dict.Count;

    public IEnumerable<object?> Items => dict.Select(select);
}

internal sealed class PythonRange(long start, long stop, long step)
{
    public long Count => step > 0 ? Math.Max(0, (stop - start + step - 1) / step) : Math.Max(0, (start - stop - step - 1) / -step);

    public object At(long index) => start + (index * step);

    public IEnumerable<object?> Items
    {
        get
        {
            for (long i = 0; i < Count; i++)
            {
                yield return At(i);
            }
        }
    }

    public override string ToString() => step == 1 ? $"range({start}, {stop})" : $"range({start}, {stop}, {step})";
}

/// <summary>A Python generator or iterator: it can be gone through once, and has no length.</summary>
[SuppressMessage("Design", "CA1001", Justification = "Its enumerators hold no resources.")]
internal sealed class PythonIterator(string typeName, IEnumerable<object?> items)
{
    private readonly IEnumerator<object?> _items = items.GetEnumerator();

    public string TypeName => typeName;

    public static PythonIterator Generator(IEnumerable<object?> items) => new("generator", items);

    public IEnumerable<object?> Rest()
    {
        while (_items.MoveNext())
        {
            yield return _items.Current;
        }
    }
}

/// <summary><c>namespace()</c>: the one thing that a template may change from inside a loop.</summary>
internal sealed class Namespace(PythonDict attributes)
{
    public PythonDict Attributes => attributes;
}

/// <summary>Anything that can be called.</summary>
internal sealed class Function(string name, Func<Arguments, object?> call, string typeName = "function")
{
    public string Name => name;

    public string TypeName => typeName;

    public object? Call(Arguments arguments) => call(arguments);
}

/// <summary><c>cycler(a, b, ...)</c>.</summary>
internal sealed class Cycler(IReadOnlyList<object?> items)
{
    private int _position;

    public object? Current => items[_position];

    public object? Next()
    {
        object? current = Current;
        _position = (_position + 1) % items.Count;
        return current;
    }

    public void Reset() => _position = 0;
}
