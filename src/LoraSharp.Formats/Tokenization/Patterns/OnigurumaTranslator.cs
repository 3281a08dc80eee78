using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Tokenization.Patterns;

/// <summary>
/// Oniguruma's syntax (its default, doc/RE of that project) in terms of .NET's. What differs: classes are sets of code
/// points, \s \w \d \h and \p{...} are Unicode's, ^ and $ are always of lines, (?m) is what .NET calls single-line,
/// possessive quantifiers, {,n}, intersections and nested classes, and an option in mid-group takes the following
/// alternatives along.
/// </summary>
internal sealed class OnigurumaTranslator
{
    private readonly string _source;
    private readonly bool _astral;
    private readonly StringBuilder _output = new();
    private int _at;
    private bool _ignoreCase;
    private bool _dotAll;
    private bool _extended;

    private OnigurumaTranslator(string source, bool astral) => (_source, _astral) = (source, astral);

    /// <summary>Translates an expression.</summary>
    /// <param name="expression">In Oniguruma's syntax.</param>
    /// <param name="astral">Whether classes must match characters beyond U+FFFF.</param>
    /// <exception cref="FormatException">It is malformed or uses what is not supported.</exception>
    public static string Translate(string expression, bool astral)
    {
        var translator = new OnigurumaTranslator(expression, astral);
        translator.Alternatives();
        if (translator._at < expression.Length)
        {
            throw translator.Fault("unmatched )");
        }

        return translator._output.ToString();
    }

    private bool More => _at < _source.Length;

    private FormatException Fault(string message) => new($"{message} at position {_at}");

    // Everything up to the ) of the enclosing group.
    private void Alternatives()
    {
        while (More && _source[_at] != ')')
        {
            if (_source[_at] == '|')
            {
                _output.Append('|');
                _at++;
                continue;
            }

            int start = _output.Length;
            if (Atom())
            {
                Quantifiers(start);
            }
        }
    }

    /// <returns>False for what takes no quantifier.</returns>
    private bool Atom()
    {
        char unit = _source[_at];
        switch (unit)
        {
            case '(':
                return Group();
            case '[':
                Append(Class());
                return true;
            case '.':
                _at++;
                Append(_dotAll ? CodePointSet.Of((0, CodePointSet.Last)) : CodePointSet.Single('\n').Complement());
                return true;
            case '^':
                _at++;
                _output.Append("(?m:^)");
                return true;
            case '$':
                _at++;
                _output.Append("(?m:$)");
                return true;
            case '\\':
                return Escape();
            case '*' or '+' or '?':
                throw Fault($"nothing to repeat before {unit}");
            case '#' when _extended:
                while (More && _source[_at] != '\n')
                {
                    _at++;
                }

                return false;
            case var blank when _extended && char.IsWhiteSpace(blank):
                _at++;
                return false;
            default:
                int codePoint = CodePoints.At(_source, _at, out int width);
                _at += width;
                Literal(codePoint);
                return true;
        }
    }

    private void Literal(int codePoint)
    {
        CodePointSet set = CodePointSet.Single(codePoint);
        set = _ignoreCase ? set.FoldCase() : set;
        if (set.Ranges.Count == 1 && set.Ranges[0].Start == set.Ranges[0].End)
        {
            string text = char.IsSurrogate((char)Math.Min(codePoint, 0xFFFF)) ? "\uFFFD" : char.ConvertFromUtf32(codePoint);
            _output.Append(codePoint < 0x10000 ? $"\\u{codePoint:X4}" : $"(?:{text})");
            return;
        }

        _output.Append(set.ToExpression(_astral));
    }

    // A class under (?i) matches a character when some case variant of it is in the class.
    private void Append(CodePointSet set) => _output.Append(set.ToExpression(_astral));

    private bool Group()
    {
        bool ignoreCase = _ignoreCase, dotAll = _dotAll, extended = _extended;
        _at++;
        if (!More || _source[_at] != '?')
        {
            // Captures are only of use to back-references, so they stay captures.
            _output.Append('(');
            CloseGroup();
            (_ignoreCase, _dotAll, _extended) = (ignoreCase, dotAll, extended);
            return true;
        }

        _at++;
        foreach (string opening in new[] { ":", "=", "!", ">", "<=", "<!" })
        {
            if (string.CompareOrdinal(_source, _at, opening, 0, opening.Length) == 0)
            {
                _at += opening.Length;
                _output.Append("(?").Append(opening);
                CloseGroup();
                (_ignoreCase, _dotAll, _extended) = (ignoreCase, dotAll, extended);
                return true;
            }
        }

        if (More && _source[_at] == '#')
        {
            int end = _source.IndexOf(')', _at);
            _at = end < 0 ? throw Fault("the comment has no end") : end + 1;
            return false;
        }

        if (More && (_source[_at] is '<' or '\'' || string.CompareOrdinal(_source, _at, "P<", 0, 2) == 0))
        {
            _at += _source[_at] == 'P' ? 1 : 0;
            char closing = _source[_at] == '<' ? '>' : '\'';
            int end = _source.IndexOf(closing, _at + 1);
            if (end < 0)
            {
                throw Fault("the group's name has no end");
            }

            _output.Append("(?<").Append(_source, _at + 1, end - _at - 1).Append('>');
            _at = end + 1;
            CloseGroup();
            (_ignoreCase, _dotAll, _extended) = (ignoreCase, dotAll, extended);
            return true;
        }

        Options();
        if (_source[_at++] == ':')
        {
            _output.Append("(?:");
            CloseGroup();
            (_ignoreCase, _dotAll, _extended) = (ignoreCase, dotAll, extended);
            return true;
        }

        // (?i) holds to the end of the group it stands in: a(?i)b|c is a(?i:b|c).
        _output.Append("(?:");
        Alternatives();
        _output.Append(')');
        (_ignoreCase, _dotAll, _extended) = (ignoreCase, dotAll, extended);
        return false;
    }

    private void Options()
    {
        bool on = true;
        for (; More && _source[_at] is not (':' or ')'); _at++)
        {
            switch (_source[_at])
            {
                case '-':
                    on = false;
                    break;
                case 'i':
                    _ignoreCase = on;
                    break;
                case 'm' or 's':
                    _dotAll = on;
                    break;
                case 'x':
                    _extended = on;
                    break;
                default:
                    throw Fault($"the option {_source[_at]} is not supported");
            }
        }

        if (!More)
        {
            throw Fault("the group has no end");
        }
    }

    private void CloseGroup()
    {
        Alternatives();
        if (!More)
        {
            throw Fault("the group has no end");
        }

        _at++;
        _output.Append(')');
    }

    private void Quantifiers(int start)
    {
        while (More)
        {
            string quantifier;
            bool interval = false;
            if (_source[_at] is '*' or '+' or '?')
            {
                quantifier = _source[_at++].ToString();
            }
            else if (_source[_at] == '{' && Interval(out int length) is { } text)
            {
                quantifier = text;
                interval = true;
                _at += length;
            }
            else
            {
                return;
            }

            Wrap(start);
            bool exact = interval && !quantifier.Contains(',');
            if (More && _source[_at] == '?' && !exact)
            {
                _at++;
                _output.Append(quantifier).Append('?');
            }
            else if (More && _source[_at] == '+' && !interval)
            {
                _at++;
                _output.Insert(start, "(?>").Append(quantifier).Append(')');
            }
            else
            {
                // Oniguruma reads {n}? and {n,m}+ as a second quantifier on the repetition.
                _output.Append(quantifier);
            }
        }
    }

    // A second quantifier, or one on several units, needs a group.
    private void Wrap(int start) => _output.Insert(start, "(?:").Append(')');

    private string? Interval(out int length)
    {
        length = 0;
        int end = _source.IndexOf('}', _at);
        if (end < 0)
        {
            return null;
        }

        string[] bounds = _source[(_at + 1)..end].Split(',');
        if (bounds.Length > 2 || bounds.Any(bound => bound.Any(unit => !char.IsAsciiDigit(unit))) || bounds.All(bound => bound.Length == 0))
        {
            return null;
        }

        length = end + 1 - _at;
        return bounds.Length == 1 ? $"{{{bounds[0]}}}" : $"{{{(bounds[0].Length == 0 ? "0" : bounds[0])},{bounds[1]}}}";
    }

    private bool Escape()
    {
        char kind = _at + 1 < _source.Length ? _source[_at + 1] : throw Fault("the expression ends in a backslash");
        switch (kind)
        {
            case 'A' or 'z' or 'Z' or 'G':
                _output.Append('\\').Append(kind);
                _at += 2;
                return true;
            case 'b' or 'B':
                string word = CharacterProperties.Word.ToExpression(_astral);
                _output.Append(kind == 'b' ? $"(?:(?<={word})(?!{word})|(?<!{word})(?={word}))" : $"(?:(?<={word})(?={word})|(?<!{word})(?!{word}))");
                _at += 2;
                return true;
            case 'R':
                _output.Append(@"(?>\r\n|[\n-\r\u0085\u2028\u2029])");
                _at += 2;
                return true;
            case 'k':
                int end = _source.IndexOf('>', _at);
                _output.Append(_source, _at, (end < 0 ? throw Fault("the reference has no end") : end) + 1 - _at);
                _at = end + 1;
                return true;
            case >= '1' and <= '9':
                _output.Append("(?:\\").Append(kind).Append(')');
                _at += 2;
                return true;
            case 'K' or 'X' or 'y' or 'Y' or 'g' or 'N' or 'O':
                throw Fault($"\\{kind} is not supported");
            default:
                if (SetEscape() is { } set)
                {
                    Append(set);
                }
                else
                {
                    Literal(CharacterEscape());
                }

                return true;
        }
    }

    // \d, \p{...} and their like; null when the escape is a single character. Stands on the backslash.
    private CodePointSet? SetEscape()
    {
        char kind = _at + 1 < _source.Length ? _source[_at + 1] : throw Fault("the expression ends in a backslash");
        CodePointSet? set = char.ToLowerInvariant(kind) switch
        {
            's' => CharacterProperties.Space,
            'd' => CharacterProperties.Digit,
            'w' => CharacterProperties.Word,
            'h' => CharacterProperties.HexDigit,
            _ => null,
        };
        if (set is not null)
        {
            _at += 2;
            return char.IsUpper(kind) ? set.Complement() : set;
        }

        if (kind is not ('p' or 'P'))
        {
            return null;
        }

        int end = _at + 2 < _source.Length && _source[_at + 2] == '{' ? _source.IndexOf('}', _at) : -1;
        // Without braces: \pL.
        string name = end > 0 ? _source[(_at + 3)..end] : _at + 2 < _source.Length ? _source[_at + 2].ToString() : throw Fault("\\p has no name");
        bool negative = kind == 'P' ^ name.StartsWith('^');
        set = CharacterProperties.Find(name.TrimStart('^')) ?? throw Fault($"the property {name} is not known");
        _at = end > 0 ? end + 1 : _at + 3;
        return negative ? set.Complement() : set;
    }

    // \n, \x{...} and their like. Stands on the backslash.
    private int CharacterEscape()
    {
        char kind = _source[_at + 1];
        _at += 2;
        switch (kind)
        {
            case 'n':
                return '\n';
            case 't':
                return '\t';
            case 'r':
                return '\r';
            case 'f':
                return '\f';
            case 'v':
                return '\v';
            case 'a':
                return '\a';
            case 'e':
                return 0x1B;
            case '0':
                return Number(8, 2, 0);
            case 'x' when More && _source[_at] == '{':
                int end = _source.IndexOf('}', _at);
                int value = end > 0 && int.TryParse(_source.AsSpan(_at + 1, end - _at - 1), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int parsed)
                    && parsed is >= 0 and <= CodePointSet.Last ? parsed : throw Fault("\\x{...} holds no code point");
                _at = end + 1;
                return value;
            case 'x':
                return Number(16, 2, 0);
            case 'u':
                return Number(16, 4, 4);
            default:
                _at--;
                int codePoint = CodePoints.At(_source, _at, out int width);
                _at += width;
                return codePoint;
        }
    }

    private int Number(int radix, int longest, int shortest)
    {
        int value = 0;
        int digits = 0;
        for (; digits < longest && More && Uri.IsHexDigit(_source[_at]) && Convert.ToInt32(_source[_at].ToString(), 16) < radix; digits++)
        {
            value = value * radix + Convert.ToInt32(_source[_at++].ToString(), 16);
        }

        return digits >= shortest ? value : throw Fault("the escape has too few digits");
    }

    // [...] with ranges, nested classes, intersections and POSIX brackets. Stands on the opening bracket.
    private CodePointSet Class()
    {
        _at++;
        bool negative = More && _source[_at] == '^';
        _at += negative ? 1 : 0;
        CodePointSet? intersection = null;
        CodePointSet current = CodePointSet.Empty;
        bool first = true;
        while (true)
        {
            if (!More)
            {
                throw Fault("the class has no end");
            }

            char unit = _source[_at];
            if (unit == ']' && !first)
            {
                _at++;
                break;
            }

            first = false;
            if (unit == '&' && _at + 1 < _source.Length && _source[_at + 1] == '&')
            {
                _at += 2;
                intersection = intersection is null ? current : intersection.Intersect(current);
                current = CodePointSet.Empty;
                continue;
            }

            current = current.Union(ClassItem(unit));
        }

        CodePointSet set = intersection is null ? current : intersection.Intersect(current);
        set = _ignoreCase ? set.FoldCase() : set;
        return negative ? set.Complement() : set;
    }

    private CodePointSet ClassItem(char unit)
    {
        if (unit == '[')
        {
            return PosixBracket() ?? Class();
        }

        if (unit == '\\' && SetEscape() is { } set)
        {
            return set;
        }

        int start = ClassCharacter();
        if (!(_at + 1 < _source.Length && _source[_at] == '-' && _source[_at + 1] != ']'))
        {
            return CodePointSet.Single(start);
        }

        int dash = _at++;
        if (_source[_at] == '[' || (_source[_at] == '\\' && SetEscapeFollows()))
        {
            // a-\d : the dash is itself.
            _at = dash;
            return CodePointSet.Single(start);
        }

        int end = ClassCharacter();
        return end >= start ? CodePointSet.Of((start, end)) : throw Fault("a range of the class ends before it begins");
    }

    private bool SetEscapeFollows()
    {
        int at = _at;
        bool follows = SetEscape() is not null;
        _at = at;
        return follows;
    }

    private int ClassCharacter()
    {
        if (_source[_at] == '\\' && _at + 1 < _source.Length)
        {
            if (_source[_at + 1] == 'b')
            {
                _at += 2;
                return '\b';
            }

            return CharacterEscape();
        }

        int codePoint = CodePoints.At(_source, _at, out int width);
        _at += width;
        return codePoint;
    }

    private CodePointSet? PosixBracket()
    {
        int end = string.CompareOrdinal(_source, _at, "[:", 0, 2) == 0 ? _source.IndexOf(":]", _at, StringComparison.Ordinal) : -1;
        if (end < 0)
        {
            return null;
        }

        string name = _source[(_at + 2)..end];
        CodePointSet? set = name.TrimStart('^') == "punct" ? CharacterProperties.PosixPunctuation : CharacterProperties.Find(name.TrimStart('^'));
        if (set is null)
        {
            return null;
        }

        _at = end + 2;
        return name.StartsWith('^') ? set.Complement() : set;
    }
}
