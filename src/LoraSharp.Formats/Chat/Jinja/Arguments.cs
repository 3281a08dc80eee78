namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Arguments of one call, taken by position or by name as Python's functions take them.</summary>
internal sealed class Arguments(string function, List<object?> positional, List<KeyValuePair<string, object?>>? keywords = null)
{
    private readonly List<KeyValuePair<string, object?>> _keywords = keywords ?? [];

    public string Function => function;

    public IReadOnlyList<object?> Positional => positional;

    /// <summary>Those by name that were not taken yet.</summary>
    public IReadOnlyList<KeyValuePair<string, object?>> Keywords => _keywords;

    public object? this[int index] => positional[index];

    public object? Required(int index, string name) => TryTake(index, name, out object? value)
        ? value
        : throw PythonError.Type($"{function}() missing 1 required positional argument: '{name}'");

    public object? Optional(int index, string name, object? otherwise = null) => TryTake(index, name, out object? value) ? value : otherwise;

    public bool TryTakeKeyword(string name, out object? value)
    {
        int at = _keywords.FindIndex(keyword => keyword.Key == name);
        value = at < 0 ? null : _keywords[at].Value;
        if (at >= 0)
        {
            _keywords.RemoveAt(at);
        }

        return at >= 0;
    }

    /// <summary>Fails when more was given than the function takes.</summary>
    public void Done(int most)
    {
        if (positional.Count > most)
        {
            throw PythonError.Type(most == 0
                ? $"{function}() takes no arguments ({positional.Count} given)"
                : $"{function}() takes at most {most} argument{(most == 1 ? string.Empty : "s")} ({positional.Count} given)");
        }

        if (_keywords.Count > 0)
        {
            throw PythonError.Type($"{function}() got an unexpected keyword argument '{_keywords[0].Key}'");
        }
    }

    private bool TryTake(int index, string name, out object? value)
    {
        bool byName = TryTakeKeyword(name, out value);
        if (index < 0 || index >= positional.Count)
        {
            return byName;
        }

        if (byName)
        {
            throw PythonError.Type($"{function}() got multiple values for argument '{name}'");
        }

        value = positional[index];
        return true;
    }
}
