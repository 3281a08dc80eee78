using System.Globalization;
using System.Numerics;
using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>
/// Splits a template into tokens with the whitespace rules that chat templates are written for: trim_blocks (the newline
/// after a block goes), lstrip_blocks (blanks before a block go), <c>-</c> and <c>+</c> signs, one newline at the end of the
/// source dropped. Jinja documentation, "Whitespace Control".
/// </summary>
internal sealed class Lexer
{
    private static readonly string[] Operators =
    [
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";",
    ];

    private readonly string _source;
    private readonly List<Token> _tokens = [];
    private readonly Stack<char> _brackets = new();
    private int _position;
    private int _line = 1;
    private int _lineCountedTo;

    private Lexer(string source) => _source = source;

    public static List<Token> Tokenize(string source)
    {
        source = source.Replace("\r\n", "\n", StringComparison.Ordinal).Replace('\r', '\n');
        if (source.EndsWith('\n'))
        {
            source = source[..^1];
        }

        var lexer = new Lexer(source);
        lexer.Run();
        return lexer._tokens;
    }

    private void Run()
    {
        while (_position < _source.Length)
        {
            int tag = FindTag();
            if (tag < 0)
            {
                AddData(_source[_position..]);
                _position = _source.Length;
                break;
            }

            char kind = _source[tag + 1];
            int raw = kind == '%' ? MatchRaw(tag) : -1;
            char sign = Sign(tag + 2);
            AddData(LeftStrip(_source[_position..tag], sign, isVariable: kind == '{', startsLine: AtLineStart(_position)));
            _position = tag;
            if (raw >= 0)
            {
                ReadRaw(raw);
                continue;
            }

            _position = tag + 2 + (sign == '\0' ? 0 : 1);
            if (kind == '#')
            {
                SkipComment();
            }
            else
            {
                ReadTag(kind == '{');
            }
        }

        Add(TokenKind.End, string.Empty);
    }

    private int FindTag()
    {
        for (int i = _source.IndexOf('{', _position); i >= 0 && i + 1 < _source.Length; i = _source.IndexOf('{', i + 1))
        {
            if (_source[i + 1] is '{' or '%' or '#')
            {
                return i;
            }
        }

        return -1;
    }

    private char Sign(int at) => at < _source.Length && _source[at] is '-' or '+' ? _source[at] : '\0';

    private bool AtLineStart(int at) => at == 0 || _source[at - 1] == '\n';

    private static string LeftStrip(string text, char sign, bool isVariable, bool startsLine)
    {
        if (sign == '-')
        {
            return PythonStrings.StripEnd(text);
        }

        if (sign == '+' || isVariable)
        {
            return text;
        }

        int line = text.LastIndexOf('\n') + 1;
        return (line > 0 || startsLine) && text.AsSpan(line).TrimEnd(PythonStrings.Whitespace).IsEmpty ? text[..line] : text;
    }

    // {%[-+]? raw -?%}: gives the position behind it.
    private int MatchRaw(int tag)
    {
        int at = tag + 2;
        at = SkipWhitespace(Sign(at) == '\0' ? at : at + 1);
        if (!Matches(at, "raw"))
        {
            return -1;
        }

        at = SkipWhitespace(at + 3);
        return Matches(at, "-%}") ? SkipWhitespace(at + 3) : Matches(at, "%}") ? at + 2 : -1;
    }

    private void ReadRaw(int start)
    {
        for (int tag = _source.IndexOf("{%", start, StringComparison.Ordinal); tag >= 0; tag = _source.IndexOf("{%", tag + 2, StringComparison.Ordinal))
        {
            char sign = Sign(tag + 2);
            int at = SkipWhitespace(tag + 2 + (sign == '\0' ? 0 : 1));
            if (Matches(at, "endraw") && MatchBlockEnd(SkipWhitespace(at + 6)) is int end and >= 0)
            {
                AddData(LeftStrip(_source[start..tag], sign, isVariable: false, startsLine: AtLineStart(start)));
                _position = end;
                return;
            }
        }

        throw Fail("Missing end of raw directive");
    }

    private void SkipComment()
    {
        int end = _source.IndexOf("#}", _position, StringComparison.Ordinal);
        if (end < 0)
        {
            throw Fail("Missing end of comment tag");
        }

        char sign = end > _position ? _source[end - 1] : '\0';
        end += 2;
        _position = sign == '-' ? SkipWhitespace(end) : sign != '+' && end < _source.Length && _source[end] == '\n' ? end + 1 : end;
    }

    // The newline after a block is part of its end (trim_blocks) unless a '+' keeps it.
    private int MatchBlockEnd(int at)
    {
        if (Matches(at, "-%}"))
        {
            return SkipWhitespace(at + 3);
        }

        if (Matches(at, "+%}"))
        {
            return at + 3;
        }

        return !Matches(at, "%}") ? -1 : at + 2 < _source.Length && _source[at + 2] == '\n' ? at + 3 : at + 2;
    }

    private int MatchVariableEnd(int at) => Matches(at, "-}}") ? SkipWhitespace(at + 3) : Matches(at, "}}") ? at + 2 : -1;

    private void ReadTag(bool variable)
    {
        Add(variable ? TokenKind.VariableBegin : TokenKind.BlockBegin, string.Empty);
        _brackets.Clear();
        while (_position < _source.Length)
        {
            if (_brackets.Count == 0)
            {
                int end = variable ? MatchVariableEnd(_position) : MatchBlockEnd(_position);
                if (end >= 0)
                {
                    Add(variable ? TokenKind.VariableEnd : TokenKind.BlockEnd, string.Empty);
                    _position = end;
                    return;
                }
            }

            ReadInside();
        }
    }

    private void ReadInside()
    {
        char c = _source[_position];
        if (PythonStrings.IsWhitespace(c))
        {
            _position++;
        }
        else if (char.IsAsciiDigit(c))
        {
            ReadNumber();
        }
        else if (c == '_' || char.IsLetter(c) || char.IsSurrogate(c))
        {
            int start = _position;
            while (_position < _source.Length && (_source[_position] == '_' || char.IsLetterOrDigit(_source[_position]) || char.IsSurrogate(_source[_position]) || CharUnicodeInfo.GetUnicodeCategory(_source[_position]) is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark))
            {
                _position++;
            }

            Add(TokenKind.Name, _source[start.._position], start);
        }
        else if (c is '\'' or '"')
        {
            ReadString(c);
        }
        else
        {
            ReadOperator();
        }
    }

    private void ReadOperator()
    {
        string? symbol = Array.Find(Operators, candidate => Matches(_position, candidate));
        if (symbol is null)
        {
            throw Fail($"unexpected char {PythonText.Repr(_source[_position].ToString())} at {_position}");
        }

        if (symbol is "(" or "[" or "{")
        {
            _brackets.Push(symbol == "(" ? ')' : symbol == "[" ? ']' : '}');
        }
        else if (symbol is ")" or "]" or "}")
        {
            if (!_brackets.TryPop(out char expected))
            {
                throw Fail($"unexpected '{symbol}'");
            }

            if (expected != symbol[0])
            {
                throw Fail($"unexpected '{symbol}', expected '{expected}'");
            }
        }

        Add(TokenKind.Operator, symbol);
        _position += symbol.Length;
    }

    private void ReadNumber()
    {
        int start = _position;
        int end = Digits(start);
        // "x.1.5" is two subscripts, not a float: a float does not follow a point.
        bool afterPoint = start > 0 && _source[start - 1] == '.';
        int fraction = end < _source.Length && _source[end] == '.' ? Digits(end + 1) : end;
        if (fraction <= end + 1)
        {
            fraction = end;
        }

        int exponent = fraction;
        if (exponent < _source.Length && _source[exponent] is 'e' or 'E')
        {
            int digits = exponent + 1 < _source.Length && _source[exponent + 1] is '+' or '-' ? exponent + 2 : exponent + 1;
            int stop = Digits(digits);
            exponent = stop > digits ? stop : exponent;
        }

        if (!afterPoint && exponent > end)
        {
            _position = exponent;
            Add(TokenKind.Float, _source[start..exponent], start, double.Parse(_source[start..exponent].Replace("_", string.Empty, StringComparison.Ordinal), NumberStyles.Float, CultureInfo.InvariantCulture));
            return;
        }

        _position = start;
        BigInteger value = ReadInteger();
        Add(TokenKind.Integer, _source[start.._position], start, PythonOperators.Shrink(value));
    }

    private BigInteger ReadInteger()
    {
        int radix = _source[_position] == '0' && _position + 1 < _source.Length ? char.ToLowerInvariant(_source[_position + 1]) switch { 'b' => 2, 'o' => 8, 'x' => 16, _ => 10 } : 10;
        bool zeros = radix == 10 && _source[_position] == '0';
        int at = radix == 10 ? _position : _position + 2;
        int first = at;
        BigInteger value = 0;
        for (; at < _source.Length; at++)
        {
            char c = _source[at] == '_' && at > first && at + 1 < _source.Length ? _source[at + 1] : _source[at];
            int digit = char.IsAsciiHexDigit(c) ? Convert.ToInt32(c.ToString(), 16) : 99;
            if (digit >= radix || (zeros && digit != 0))
            {
                break;
            }

            at += _source[at] == '_' ? 1 : 0;
            value = (value * radix) + digit;
            if (at - first > 10_000)
            {
                throw Fail("an integer of more than 10000 digits");
            }
        }

        // "0x" without digits is a zero and a name.
        _position = at > first ? at : _position + 1;
        return value;
    }

    private int Digits(int at)
    {
        while (at < _source.Length && (char.IsAsciiDigit(_source[at]) || (_source[at] == '_' && at + 1 < _source.Length && char.IsAsciiDigit(_source[at + 1]))))
        {
            at++;
        }

        return at;
    }

    private void ReadString(char quote)
    {
        int start = _position + 1;
        int at = start;
        while (at < _source.Length && _source[at] != quote)
        {
            at += _source[at] == '\\' ? 2 : 1;
        }

        if (at >= _source.Length)
        {
            throw Fail($"unexpected char {PythonText.Repr(quote.ToString())} at {_position}");
        }

        Add(TokenKind.String, Unescape(_source[start..at]), _position);
        _position = at + 1;
    }

    // Python's "unicode-escape" of the ASCII form, in which every other character stands as an escape: a backslash before
    // one of those therefore gives the escape's text.
    private string Unescape(string text)
    {
        if (!text.Contains('\\', StringComparison.Ordinal))
        {
            return text;
        }

        var result = new StringBuilder(text.Length);
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] != '\\')
            {
                result.Append(text[i]);
                continue;
            }

            char c = text[++i];
            switch (c)
            {
                case '\n':
                    break;
                case '\\' or '\'' or '"':
                    result.Append(c);
                    break;
                case 'n' or 't' or 'r' or 'a' or 'b' or 'f' or 'v':
                    result.Append("\n\t\r\a\b\f\v"["ntrabfv".IndexOf(c, StringComparison.Ordinal)]);
                    break;
                case 'x' or 'u' or 'U':
                    int length = c == 'x' ? 2 : c == 'u' ? 4 : 8;
                    int code = 0;
                    if (i + length >= text.Length + 0 && i + length > text.Length - 1 || !int.TryParse(text.AsSpan(i + 1, length), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out code) || code is < 0 or > 0x10FFFF)
                    {
                        throw Fail($"truncated \\{c}{new string('X', length)} escape");
                    }

                    result.Append(code > 0xFFFF ? char.ConvertFromUtf32(code) : ((char)code).ToString());
                    i += length;
                    break;
                case >= '0' and <= '7':
                    int octal = 0;
                    int digits = 0;
                    for (; digits < 3 && i + digits < text.Length && text[i + digits] is >= '0' and <= '7'; digits++)
                    {
                        octal = (octal * 8) + (text[i + digits] - '0');
                    }

                    result.Append((char)octal);
                    i += digits - 1;
                    break;
                case > '\x7f':
                    result.Append('\\').Append(c < 0x100 ? $"x{(int)c:x2}" : $"u{(int)c:x4}");
                    break;
                default:
                    result.Append('\\').Append(c);
                    break;
            }
        }

        return result.ToString();
    }

    private int SkipWhitespace(int at)
    {
        while (at < _source.Length && PythonStrings.IsWhitespace(_source[at]))
        {
            at++;
        }

        return at;
    }

    private bool Matches(int at, string text) => string.CompareOrdinal(_source, at, text, 0, text.Length) == 0;

    private void AddData(string text)
    {
        if (text.Length > 0)
        {
            Add(TokenKind.Data, text);
        }
    }

    private void Add(TokenKind kind, string text, int at = -1, object? value = null) => _tokens.Add(new Token(kind, text, value, LineAt(at < 0 ? _position : at)));

    private int LineAt(int position)
    {
        position = Math.Min(position, _source.Length);
        if (position > _lineCountedTo)
        {
            _line += _source.AsSpan(_lineCountedTo, position - _lineCountedTo).Count('\n');
            _lineCountedTo = position;
        }

        return _line;
    }

    private SyntaxError Fail(string message) => new(message, LineAt(_position));
}
