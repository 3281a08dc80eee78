using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Inference.Constraints.Json;

/// <summary>Pieces of JSON (RFC 8259) as parts of an automaton.</summary>
internal static class JsonText
{
    private static readonly CodePointSet Plain = CodePointSet.Of((0, 0x1F), ('"', '"'), ('\\', '\\')).Complement();

    /// <summary>
    /// One character between quotes, in any form: plain, <c>\n</c> and its kin, <c>\u00e9</c>, a pair of surrogates. Half a
    /// pair is no character.
    /// </summary>
    public static void AddCharacter(Nfa nfa, int from, int to, CountAction action = CountAction.None)
    {
        new CharacterWriter(json: false).Add(nfa, from, to, Plain, action);
        int escape = nfa.AddState();
        nfa.Bytes(from, escape, (byte)'\\', (byte)'\\', action);
        foreach (byte letter in "\"\\/bfnrt"u8)
        {
            nfa.Bytes(escape, to, letter, letter);
        }

        int unit = nfa.Literal(escape, "u"u8);
        int three = nfa.AddState();
        int surrogate = nfa.AddState();
        foreach ((char low, char high) in (ReadOnlySpan<(char, char)>)[('0', '9'), ('A', 'C'), ('E', 'F'), ('a', 'c'), ('e', 'f')])
        {
            nfa.Bytes(unit, three, (byte)low, (byte)high);
        }

        int two = nfa.AddState();
        AddHex(nfa, three, two);
        nfa.Bytes(unit, surrogate, (byte)'D', (byte)'D');
        nfa.Bytes(unit, surrogate, (byte)'d', (byte)'d');
        nfa.Bytes(surrogate, two, (byte)'0', (byte)'7');
        AddHexPair(nfa, two, to);
        int high2 = nfa.AddState();
        foreach ((char low, char high) in (ReadOnlySpan<(char, char)>)[('8', '9'), ('A', 'B'), ('a', 'b')])
        {
            nfa.Bytes(surrogate, high2, (byte)low, (byte)high);
        }

        int pair = nfa.AddState();
        AddHexPair(nfa, high2, pair);
        int second = nfa.Literal(pair, "\\u"u8);
        int third = nfa.AddState();
        nfa.Bytes(second, third, (byte)'D', (byte)'D');
        nfa.Bytes(second, third, (byte)'d', (byte)'d');
        int rest = nfa.AddState();
        nfa.Bytes(third, rest, (byte)'C', (byte)'F');
        nfa.Bytes(third, rest, (byte)'c', (byte)'f');
        AddHexPair(nfa, rest, to);
    }

    /// <summary>A value's shortest text, in the one form that <see cref="CharacterWriter"/> gives characters too.</summary>
    public static byte[] Literal(JsonNode? value)
    {
        var text = new StringBuilder();
        Write(value, text);
        return Encoding.UTF8.GetBytes(text.ToString());
    }

    /// <summary>A text as it stands between quotes.</summary>
    public static string Escape(string text)
    {
        var escaped = new StringBuilder(text.Length);
        foreach (char unit in text)
        {
            escaped.Append(unit switch
            {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\b' => "\\b",
                '\f' => "\\f",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                < ' ' => FormattableString.Invariant($"\\u{(int)unit:x4}"),
                _ => unit.ToString(),
            });
        }

        return escaped.ToString();
    }

    private static void Write(JsonNode? value, StringBuilder text)
    {
        switch (value)
        {
            case JsonObject members:
                text.Append('{').AppendJoin(',', members.Select(m => $"\"{Escape(m.Key)}\":{Text(m.Value)}")).Append('}');
                break;
            case JsonArray items:
                text.Append('[').AppendJoin(',', items.Select(Text)).Append(']');
                break;
            case JsonValue when value.GetValueKind() == JsonValueKind.String:
                text.Append('"').Append(Escape(value.GetValue<string>())).Append('"');
                break;
            default:
                text.Append(value?.ToJsonString() ?? "null");
                break;
        }

        static string Text(JsonNode? inner)
        {
            var own = new StringBuilder();
            Write(inner, own);
            return own.ToString();
        }
    }

    private static void AddHexPair(Nfa nfa, int from, int to)
    {
        int middle = nfa.AddState();
        AddHex(nfa, from, middle);
        AddHex(nfa, middle, to);
    }

    private static void AddHex(Nfa nfa, int from, int to)
    {
        nfa.Bytes(from, to, (byte)'0', (byte)'9');
        nfa.Bytes(from, to, (byte)'A', (byte)'F');
        nfa.Bytes(from, to, (byte)'a', (byte)'f');
    }
}
