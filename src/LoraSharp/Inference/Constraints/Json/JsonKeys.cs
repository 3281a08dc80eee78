using System.Text.Json;

namespace LoraSharp.Inference.Constraints.Json;

/// <summary>
/// The property names of the objects that are open in a JSON text as it is written. That no name comes twice is beyond any
/// automaton with a stack, so it is watched here.
/// </summary>
internal sealed class JsonKeys
{
    // For each open object its names; null for an open array.
    private readonly Stack<HashSet<string>?> _open = new();
    private readonly List<byte> _text = [];
    private bool _inText;
    private bool _escaped;
    private bool _isName;

    /// <summary>Whether no name comes twice in these bytes; nothing is changed.</summary>
    public bool Allow(ReadOnlySpan<byte> bytes)
    {
        // Only the end of a name can be a repetition.
        if (!bytes.Contains((byte)'"'))
        {
            return true;
        }

        JsonKeys copy = Copy();
        return copy.Read(bytes);
    }

    /// <summary>Takes bytes that were written.</summary>
    public void Accept(ReadOnlySpan<byte> bytes) => Read(bytes);

    private bool Read(ReadOnlySpan<byte> bytes)
    {
        bool fine = true;
        foreach (byte value in bytes)
        {
            if (_inText)
            {
                if (_escaped || value != '"')
                {
                    _escaped = !_escaped && value == '\\';
                    if (_isName)
                    {
                        _text.Add(value);
                    }

                    continue;
                }

                _inText = false;
                if (_isName)
                {
                    fine &= _open.Peek()!.Add(Name());
                    _isName = false;
                }

                continue;
            }

            switch (value)
            {
                case (byte)'"':
                    _inText = true;
                    _text.Clear();
                    break;
                case (byte)'{':
                    _open.Push(new HashSet<string>(StringComparer.Ordinal));
                    _isName = true;
                    break;
                case (byte)'[':
                    _open.Push(null);
                    _isName = false;
                    break;
                case (byte)'}' or (byte)']':
                    _open.TryPop(out _);
                    _isName = false;
                    break;
                case (byte)',':
                    _isName = _open.TryPeek(out HashSet<string>? names) && names is not null;
                    break;
            }
        }

        return fine;
    }

    private string Name()
    {
        var reader = new Utf8JsonReader([(byte)'"', .. _text, (byte)'"']);
        reader.Read();
        return reader.GetString()!;
    }

    private JsonKeys Copy()
    {
        var copy = new JsonKeys { _inText = _inText, _escaped = _escaped, _isName = _isName };
        copy._text.AddRange(_text);
        foreach (HashSet<string>? names in _open.Reverse())
        {
            copy._open.Push(names is null ? null : new HashSet<string>(names, StringComparer.Ordinal));
        }

        return copy;
    }
}
