using System.Text;

namespace LoraSharp.Formats.Datasets;

/// <summary>
/// Cuts text into lines or JSON values without parsing them, and knows the line each began on: so that an array of any
/// size streams and an error can name its place.
/// </summary>
internal sealed class TextScanner : IDisposable
{
    private readonly string _path;
    private readonly TextReader _reader;
    private readonly char[] _buffer = new char[1 << 15];
    private readonly StringBuilder _value = new();
    private int _at;
    private int _filled;
    private long _line;

    public TextScanner(string path, Stream stream)
        : this(path, new StreamReader(stream, new UTF8Encoding(false, throwOnInvalidBytes: true), detectEncodingFromByteOrderMarks: true), 1)
    {
    }

    public TextScanner(string path, string text, long line)
        : this(path, new StringReader(text), line)
    {
    }

    private TextScanner(string path, TextReader reader, long line)
    {
        _path = path;
        _reader = reader;
        _line = line;
    }

    /// <summary>Line on which the last value began, from 1.</summary>
    public long StartLine { get; private set; }

    /// <summary>The next line without its end; null at the end of the text.</summary>
    public string? NextLine()
    {
        StartLine = _line;
        if (Peek() is null)
        {
            return null;
        }

        _value.Clear();
        while (Peek() is { } c)
        {
            // A whole stretch at once: lines are the hot path.
            ReadOnlySpan<char> rest = _buffer.AsSpan(_at, _filled - _at);
            int end = rest.IndexOfAny('\n', '\r');
            int count = end < 0 ? rest.Length : end;
            Append(rest[..count]);
            _at += count;
            if (end < 0)
            {
                continue;
            }

            c = _buffer[_at++];
            if (c == '\r' && Peek() == '\n')
            {
                _at++;
            }

            _line++;
            break;
        }

        return _value.ToString();
    }

    /// <summary>The next character that is no white space, without taking it; null at the end.</summary>
    public char? PeekVisible()
    {
        while (Peek() is { } c && c is ' ' or '\t' or '\r' or '\n')
        {
            Take();
        }

        return Peek();
    }

    /// <summary>The text of the next JSON value; null at the end of the text.</summary>
    public string? NextValue()
    {
        if (PeekVisible() is not { } first)
        {
            return null;
        }

        StartLine = _line;
        _value.Clear();
        int depth = 0;
        while (Peek() is { } c)
        {
            if (c == '"')
            {
                TakeString();
            }
            else if (c is '{' or '[')
            {
                depth++;
                AppendTaken();
            }
            else if (c is '}' or ']')
            {
                if (depth == 0)
                {
                    break;
                }

                depth--;
                AppendTaken();
            }
            else if (depth == 0 && c is ',' or ':' or ' ' or '\t' or '\r' or '\n')
            {
                break;
            }
            else
            {
                AppendTaken();
            }

            if (depth == 0 && first is '{' or '[' or '"')
            {
                break;
            }
        }

        if (depth > 0)
        {
            throw new DatasetException(new RowOrigin(_path, StartLine), null, $"the file ends within the value that begins here ({depth} bracket(s) are still open): truncated?", _value.ToString());
        }

        return _value.ToString();
    }

    /// <summary>The elements of the array that comes next.</summary>
    public IEnumerable<string> ArrayElements()
    {
        Expect('[');
        if (PeekVisible() == ']')
        {
            Take();
            yield break;
        }

        while (true)
        {
            string? element = NextValue();
            if (string.IsNullOrEmpty(element))
            {
                throw Unexpected("a row");
            }

            yield return element;
            if (PeekVisible() == ']')
            {
                Take();
                if (PeekVisible() is not null && _reader is StreamReader)
                {
                    throw Unexpected("the end of the file after the list");
                }

                yield break;
            }

            Expect(',');
        }
    }

    /// <summary>The elements of the array under a key of the object that comes next.</summary>
    public IEnumerable<string> ArrayElements(string key)
    {
        Expect('{');
        while (true)
        {
            PeekVisible();
            string? name = NextValue();
            Expect(':');
            PeekVisible();
            if (System.Text.Json.JsonSerializer.Deserialize<string>(name!) == key)
            {
                return ArrayElements();
            }

            NextValue();
            Expect(',');
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _reader.Dispose();

    private void Expect(char wanted)
    {
        if (PeekVisible() != wanted)
        {
            throw Unexpected($"'{wanted}'");
        }

        Take();
    }

    private DatasetException Unexpected(string wanted) =>
        new(new RowOrigin(_path, _line), null, $"expected {wanted}, found {(Peek() is { } c ? $"'{c}'" : "the end of the file")}.");

    private void TakeString()
    {
        AppendTaken();
        while (Peek() is { } c)
        {
            AppendTaken();
            if (c == '\\' && Peek() is not null)
            {
                AppendTaken();
            }
            else if (c == '"')
            {
                return;
            }
        }

        throw new DatasetException(new RowOrigin(_path, StartLine), null, "the file ends within the text of the value that begins here: truncated?", _value.ToString());
    }

    private char? Peek()
    {
        if (_at == _filled)
        {
            _at = 0;
            _filled = _reader.Read(_buffer, 0, _buffer.Length);
            if (_filled <= 0)
            {
                _filled = 0;
                return null;
            }
        }

        return _buffer[_at];
    }

    private char Take()
    {
        char c = _buffer[_at++];
        _line += c == '\n' ? 1 : 0;
        return c;
    }

    private void AppendTaken()
    {
        char c = Take();
        Append(new ReadOnlySpan<char>(in c));
    }

    private void Append(ReadOnlySpan<char> text)
    {
        _value.Append(text);
        if (_value.Length > DatasetReader.LongestRow)
        {
            throw new DatasetException(new RowOrigin(_path, StartLine), null, $"a row is longer than {DatasetReader.LongestRow} characters. Expected one row a line (.jsonl, .txt) or a list of rows (.json).", _value.ToString(0, 200));
        }
    }
}
