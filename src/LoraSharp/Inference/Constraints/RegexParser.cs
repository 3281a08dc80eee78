using System.Globalization;
using System.Text;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Inference.Constraints;

/// <summary>
/// Reads what regular expressions of .NET and of ECMA-262 have in common and an automaton can do: sets, groups,
/// alternatives, repetitions, anchors. What looks around or back is refused by name.
/// </summary>
/// <remarks>
/// Where the dialects differ the narrower reading is taken, so that a generated text matches in each: <c>\d</c>, <c>\w</c>
/// and <c>\s</c> are ASCII, their complements leave Unicode's digits, letters and blanks out too, and a dot is no line end
/// of either.
/// </remarks>
internal sealed class RegexParser
{
    private const int MostGroups = 200;
    private const int MostRepeats = 100_000;

    private readonly string _source;
    private int _at;
    private int _depth;
    private bool _ignoreCase;
    private bool _dotAll;

    private RegexParser(string source) => _source = source;

    /// <summary>Takes an expression apart.</summary>
    /// <exception cref="ConstraintException">It is malformed, or asks for what no automaton can do.</exception>
    public static RegexNode Parse(string source, ConstraintLimits limits)
    {
        if (source.Length > limits.MaxSourceLength)
        {
            throw new ConstraintException($"The regular expression has {source.Length} characters. At most {limits.MaxSourceLength} are taken.");
        }

        var parser = new RegexParser(source);
        RegexNode node = parser.ReadChoice();
        return parser._at == source.Length ? node : throw parser.Fault("a ')' without its '('");
    }

    private RegexNode ReadChoice()
    {
        if (++_depth > MostGroups)
        {
            throw Fault($"groups nested deeper than {MostGroups}");
        }

        (bool ignoreCase, bool dotAll) = (_ignoreCase, _dotAll);
        List<RegexNode> options = [ReadSequence()];
        while (Peek() == '|')
        {
            _at++;
            options.Add(ReadSequence());
        }

        (_ignoreCase, _dotAll) = (ignoreCase, dotAll);
        _depth--;
        return options.Count == 1 ? options[0] : new RegexNode.Choice(options);
    }

    private RegexNode.Sequence ReadSequence()
    {
        var parts = new List<RegexNode>();
        while (_at < _source.Length && _source[_at] is not ('|' or ')'))
        {
            if (ReadAtom() is { } atom)
            {
                parts.Add(ReadRepeats(atom));
            }
        }

        return new RegexNode.Sequence(parts);
    }

    private RegexNode? ReadAtom()
    {
        char c = _source[_at];
        switch (c)
        {
            case '(':
                return ReadGroup();
            case '[':
                return ReadClass();
            case '.':
                _at++;
                return CharacterClass.AsNode(_dotAll ? CharacterClass.Any : CharacterClass.Dot);
            case '^':
                _at++;
                return new RegexNode.Start();
            case '$':
                _at++;
                return new RegexNode.End();
            case '*' or '+' or '?':
                throw Fault($"'{c}' with nothing before it to repeat");
            case '{' when Bounds(out _, out _, out _):
                throw Fault("a repetition with nothing before it");
            case '\\':
                return ReadEscape();
            default:
                return new RegexNode.OneOf(Fold(CodePointSet.Single(ReadCodePoint())));
        }
    }

    private RegexNode? ReadGroup()
    {
        _at++;
        if (Peek() == '?')
        {
            _at++;
            int end = _source.AsSpan(_at).IndexOfAny(':', ')');
            if (Peek() is '=' or '!' || Starts("<=") || Starts("<!"))
            {
                throw Fault("looking ahead or behind, which no automaton can do");
            }

            if (Peek() is '>' or '(' or '#')
            {
                throw Fault("an atomic, conditional or comment group, which is not supported");
            }

            if (Peek() is '<' or '\'' or 'P')
            {
                int close = _source.AsSpan(_at).IndexOfAny('>', '\'', ')');
                close = Peek() == '\'' ? _source.IndexOf('\'', _at + 1) - _at : close;
                if (close < 2 || _source[_at + close] == ')')
                {
                    throw Fault("a group whose name does not end");
                }

                _at += close + 1;
            }
            else if (Peek() == ':')
            {
                _at++;
            }
            else if (end >= 0)
            {
                (bool ignoreCase, bool dotAll) = (_ignoreCase, _dotAll);
                ReadFlags(_source.AsSpan(_at, end));
                _at += end + 1;
                if (_source[_at - 1] == ')')
                {
                    // (?i): for the rest of the group it stands in.
                    return null;
                }

                RegexNode flagged = ReadChoice();
                (_ignoreCase, _dotAll) = (ignoreCase, dotAll);
                Close();
                return flagged;
            }
        }

        RegexNode inner = ReadChoice();
        Close();
        return inner;

        void Close()
        {
            if (Peek() != ')')
            {
                throw Fault("a '(' without its ')'");
            }

            _at++;
        }
    }

    private void ReadFlags(ReadOnlySpan<char> flags)
    {
        bool on = true;
        foreach (char flag in flags)
        {
            switch (flag)
            {
                case '-':
                    on = false;
                    break;
                case 'i':
                    _ignoreCase = on;
                    break;
                case 's':
                    _dotAll = on;
                    break;
                case 'n' or 'u':
                    break;
                default:
                    throw Fault($"the option '{flag}', which is not supported");
            }
        }
    }

    private RegexNode ReadRepeats(RegexNode atom)
    {
        while (_at < _source.Length)
        {
            int least = 0;
            int? most = null;
            int length = 1;
            switch (_source[_at])
            {
                case '*':
                    break;
                case '+':
                    least = 1;
                    break;
                case '?':
                    most = 1;
                    break;
                case '{' when Bounds(out least, out most, out length):
                    break;
                default:
                    return atom;
            }

            _at += length;
            if (least > MostRepeats || most > MostRepeats || most < least)
            {
                throw Fault(most < least ? $"a repetition of at least {least} and at most {most}" : $"a repetition of more than {MostRepeats}");
            }

            // A lazy repetition stands for the same texts.
            if (Peek() == '?')
            {
                _at++;
            }
            else if (Peek() == '+')
            {
                throw Fault("a possessive repetition, which is not supported");
            }

            atom = new RegexNode.Repeat(atom, least, most);
        }

        return atom;
    }

    // {n}, {n,} and {n,m}; any other brace stands for itself.
    private bool Bounds(out int least, out int? most, out int length)
    {
        (least, most, length) = (0, null, 0);
        int close = _source.IndexOf('}', _at);
        if (close < 0)
        {
            return false;
        }

        string[] parts = _source[(_at + 1)..close].Split(',');
        length = close - _at + 1;
        if (parts.Length > 2 || !Number(parts[0], out least) || (parts.Length == 2 && parts[1].Length > 0 && !Number(parts[1], out _)))
        {
            return false;
        }

        most = parts.Length == 1 ? least : parts[1].Length == 0 ? null : int.Parse(parts[1], CultureInfo.InvariantCulture);
        return true;

        static bool Number(string text, out int number) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number);
    }

    private RegexNode ReadEscape()
    {
        switch (_at + 1 < _source.Length ? _source[_at + 1] : '\0')
        {
            case 'A':
                _at += 2;
                return new RegexNode.Start();
            case 'z' or 'Z':
                _at += 2;
                return new RegexNode.End();
            case 'b' or 'B':
                throw Fault("a word boundary, which looks around");
            case 'G':
                throw Fault("\\G, which is not supported");
            case >= '1' and <= '9' or 'k':
                throw Fault("a reference to a group, which no automaton can follow");
            default:
                CharacterClass escaped = ReadEscapedSet(inClass: false);
                return escaped.Single is null ? CharacterClass.AsNode(Fold(escaped.Narrow)) : new RegexNode.OneOf(Fold(escaped.Narrow));
        }
    }

    private CharacterClass ReadEscapedSet(bool inClass)
    {
        _at++;
        if (_at >= _source.Length)
        {
            throw Fault("a '\\' at the end");
        }

        char c = _source[_at++];
        if (CharacterClass.Shorthand(c) is { } shorthand)
        {
            return shorthand;
        }

        switch (c)
        {
            case 'p' or 'P':
                int close = Peek() == '{' ? _source.IndexOf('}', _at) : -1;
                string name = close > 0 ? _source[(_at + 1)..close] : "";
                CodePointSet? property = CharacterProperties.Find(name);
                if (property is null)
                {
                    throw Fault($"the property '{name}', which is not known");
                }

                _at = close + 1;
                CharacterClass found = CharacterClass.OfProperty(property);
                return c == 'P' ? found.Complement() : found;
            case 't':
                return One('\t');
            case 'n':
                return One('\n');
            case 'r':
                return One('\r');
            case 'f':
                return One('\f');
            case 'v':
                return One('\v');
            case 'a':
                return One('\a');
            case 'e':
                return One('\u001B');
            case 'b' when inClass:
                return One('\b');
            case '0':
                return One('\0');
            case 'c' when _at < _source.Length && char.IsAsciiLetter(_source[_at]):
                return One(_source[_at++] & 0x1F);
            case 'x':
                return One(ReadHex(2));
            case 'u' when Peek() == '{':
                int end = _source.IndexOf('}', _at);
                int digits = end - _at - 1;
                if (digits is < 1 or > 6)
                {
                    throw Fault("a \\u{...} that is none");
                }

                _at++;
                int point = ReadHex(digits);
                _at++;
                return point <= CodePointSet.Last ? One(point) : throw Fault("a code point beyond U+10FFFF");
            case 'u':
                int unit = ReadHex(4);
                if (char.IsHighSurrogate((char)unit) && Starts("\\u"))
                {
                    _at += 2;
                    int low = ReadHex(4);
                    return char.IsLowSurrogate((char)low) ? One(char.ConvertToUtf32((char)unit, (char)low)) : throw Fault("half of a surrogate pair");
                }

                return char.IsSurrogate((char)unit) ? throw Fault("half of a surrogate pair") : One(unit);
            default:
                if (char.IsAsciiLetterOrDigit(c))
                {
                    throw Fault($"\\{c}, which is not known");
                }

                _at--;
                return One(ReadCodePoint());
        }

        static CharacterClass One(int codePoint) => CharacterClass.Exactly(CodePointSet.Single(codePoint));
    }

    private RegexNode.OneOf ReadClass()
    {
        _at++;
        bool negated = Peek() == '^';
        _at += negated ? 1 : 0;
        CharacterClass all = CharacterClass.Exactly(CodePointSet.Empty);
        if (Peek() == ']')
        {
            throw Fault("an empty set, or a ']' in a set that should be written \\]");
        }

        while (Peek() != ']')
        {
            CharacterClass low = ReadMember();
            if (Peek() == '-' && _at + 1 < _source.Length && _source[_at + 1] != ']')
            {
                if (_source[_at + 1] == '[')
                {
                    throw Fault("one set taken from another, which is not supported");
                }

                _at++;
                CharacterClass high = ReadMember();
                if (low.Single is not { } from || high.Single is not { } to || from > to)
                {
                    throw Fault("a range whose ends are not two characters in order");
                }

                low = CharacterClass.Exactly(CodePointSet.Of((from, to)));
            }

            all = all.Union(low);
        }

        _at++;
        return negated ? CharacterClass.AsNode(Folded(all).Complement().Narrow) : new RegexNode.OneOf(Fold(all.Narrow));

        CharacterClass Folded(CharacterClass set) => _ignoreCase ? new(CharacterClass.FoldCase(set.Narrow), set.Wide.FoldCase()) : set;
    }

    private CharacterClass ReadMember()
    {
        if (_at >= _source.Length)
        {
            throw Fault("a '[' without its ']'");
        }

        return _source[_at] == '\\' ? ReadEscapedSet(inClass: true) : CharacterClass.Exactly(CodePointSet.Single(ReadCodePoint()));
    }

    private CodePointSet Fold(CodePointSet set) => _ignoreCase ? CharacterClass.FoldCase(set) : set;

    private int ReadCodePoint()
    {
        if (!Rune.TryGetRuneAt(_source, _at, out Rune rune))
        {
            throw Fault("half of a surrogate pair");
        }

        _at += rune.Utf16SequenceLength;
        return rune.Value;
    }

    private int ReadHex(int digits)
    {
        if (_at + digits > _source.Length || !int.TryParse(_source.AsSpan(_at, digits), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int value))
        {
            throw Fault($"an escape without its {digits} hexadecimal digits");
        }

        _at += digits;
        return value;
    }

    private char Peek() => _at < _source.Length ? _source[_at] : '\0';

    private bool Starts(string part) => _source.AsSpan(_at).StartsWith(part, StringComparison.Ordinal);

    private ConstraintException Fault(string what)
    {
        string shown = _source.Length > 80 ? _source[..80] + "…" : _source;
        return new ConstraintException($"The regular expression '{shown}' has {what} (at character {Math.Min(_at, _source.Length)}).");
    }
}
