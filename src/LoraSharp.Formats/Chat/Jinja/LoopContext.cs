namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>The variable <c>loop</c>. It reads ahead only as far as it is asked, since a generator gives each item once.</summary>
internal sealed class LoopContext
{
    private readonly object? _iterable;
    private readonly Func<object?, long, string>? _recurse;
    private readonly Queue<object?> _ahead = new();
    private readonly IEnumerator<object?> _items;
    private object? _current;
    private object? _previous;
    private object? _lastChanged;
    private long? _length;

    public LoopContext(object? iterable, IEnumerable<object?> items, Func<object?, long, string>? recurse, long depth0)
    {
        _iterable = iterable;
        _items = items.GetEnumerator();
        _recurse = recurse;
        Depth0 = depth0;
    }

    public long Index0 { get; private set; } = -1;

    public long Depth0 { get; }

    public long Length
    {
        get
        {
            if (_length is null)
            {
                _length = _iterable is Undefined ? null : PythonOperators.LengthOrNull(_iterable);
                while (_length is null && _items.MoveNext())
                {
                    _ahead.Enqueue(_items.Current);
                }

                _length ??= _ahead.Count + Index0 + 1;
            }

            return _length.Value;
        }
    }

    public bool MoveNext(out object? item)
    {
        if (!_ahead.TryDequeue(out item))
        {
            if (!_items.MoveNext())
            {
                return false;
            }

            item = _items.Current;
        }

        Index0++;
        _previous = _current;
        _current = item;
        return true;
    }

    public string Recurse(object? items) => _recurse is null
        ? throw PythonError.Type("The loop must have the 'recursive' marker to be called recursively.")
        : _recurse(items, Depth0 + 1);

    public object? Attribute(string name) => name switch
    {
        "index0" => Index0,
        "index" => Index0 + 1,
        "revindex0" => Length - Index0 - 1,
        "revindex" => Length - Index0,
        "first" => Index0 == 0,
        "last" => !Peek(out _),
        "length" => Length,
        "depth0" => Depth0,
        "depth" => Depth0 + 1,
        "previtem" => Index0 == 0 ? new Undefined("there is no previous item") : _previous,
        "nextitem" => Peek(out object? next) ? next : new Undefined("there is no next item"),
        "cycle" => new Function(name, arguments => arguments.Positional.Count == 0
            ? throw PythonError.Type("no items for cycling given")
            : arguments[(int)(Index0 % arguments.Positional.Count)], "method"),
        "changed" => new Function(name, arguments => Changed(new PythonTuple([.. arguments.Positional])), "method"),
        _ => Members.Missing.Value,
    };

    private bool Changed(PythonTuple value)
    {
        bool changed = !PythonEquality.AreEqual(_lastChanged, value);
        _lastChanged = value;
        return changed;
    }

    private bool Peek(out object? next)
    {
        if (_ahead.TryPeek(out next))
        {
            return true;
        }

        if (!_items.MoveNext())
        {
            return false;
        }

        next = _items.Current;
        _ahead.Enqueue(next);
        return true;
    }
}
