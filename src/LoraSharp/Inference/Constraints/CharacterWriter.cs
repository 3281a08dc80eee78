using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Inference.Constraints;

/// <summary>Puts sets of characters into an automaton over bytes, as plain UTF-8 or as they stand between a JSON text's quotes.</summary>
/// <param name="json">
/// Whether quotes, backslashes and control characters are escaped, each in the one shortest way: a character has one form
/// then, so that what is not to be generated cannot come in disguise.
/// </param>
internal sealed class CharacterWriter(bool json)
{
    private static readonly CodePointSet Surrogates = CodePointSet.Of((0xD800, 0xDFFF));
    private static readonly CodePointSet Escaped = CodePointSet.Of((0, 0x1F), ('"', '"'), ('\\', '\\'));

    /// <summary>One character of a set between two states.</summary>
    public void Add(Nfa nfa, int from, int to, CodePointSet set, CountAction action = CountAction.None)
    {
        if (json)
        {
            foreach ((int start, int end) in set.Intersect(Escaped).Ranges)
            {
                for (int point = start; point <= end; point++)
                {
                    AddEscape(nfa, from, to, point, action);
                }
            }

            set = set.Intersect(Escaped.Complement());
        }

        // The ends of long characters are shared: two ranges whose rests agree go through the same states.
        var shared = new Dictionary<(byte, byte, int), int>();
        foreach ((int start, int end) in set.Intersect(Surrogates.Complement()).Ranges)
        {
            AddRange(nfa, from, to, start, end, action, shared);
        }
    }

    private static void AddEscape(Nfa nfa, int from, int to, int point, CountAction action)
    {
        char letter = point switch { '"' => '"', '\\' => '\\', '\b' => 'b', '\f' => 'f', '\n' => 'n', '\r' => 'r', '\t' => 't', _ => 'u' };
        string text = letter == 'u' ? FormattableString.Invariant($"\\u{point:x4}") : $"\\{letter}";
        byte[] bytes = System.Text.Encoding.ASCII.GetBytes(text);
        int before = nfa.Literal(from, bytes.AsSpan(0, bytes.Length - 1), action);
        nfa.Bytes(before, to, bytes[^1], bytes[^1]);
    }

    // Splits a range of code points where their UTF-8 gets longer, and then until each byte runs over a range of its own
    // (RFC 3629, section 4).
    private static void AddRange(Nfa nfa, int from, int to, int start, int end, CountAction action, Dictionary<(byte, byte, int), int> shared)
    {
        foreach (int limit in (int[])[0x7F, 0x7FF, 0xFFFF])
        {
            if (start <= limit && end > limit)
            {
                AddRange(nfa, from, to, start, limit, action, shared);
                AddRange(nfa, from, to, limit + 1, end, action, shared);
                return;
            }
        }

        if (end <= 0x7F)
        {
            nfa.Bytes(from, to, (byte)start, (byte)end, action);
            return;
        }

        int length = start <= 0x7FF ? 2 : start <= 0xFFFF ? 3 : 4;
        for (int i = 1; i < length; i++)
        {
            int mask = (1 << (6 * i)) - 1;
            if ((start & ~mask) != (end & ~mask))
            {
                if ((start & mask) != 0)
                {
                    AddRange(nfa, from, to, start, start | mask, action, shared);
                    AddRange(nfa, from, to, (start | mask) + 1, end, action, shared);
                    return;
                }

                if ((end & mask) != mask)
                {
                    AddRange(nfa, from, to, start, (end & ~mask) - 1, action, shared);
                    AddRange(nfa, from, to, end & ~mask, end, action, shared);
                    return;
                }
            }
        }

        Span<byte> low = stackalloc byte[length];
        Span<byte> high = stackalloc byte[length];
        Encode(start, low);
        Encode(end, high);
        int target = to;
        for (int i = length - 1; i > 0; i--)
        {
            if (!shared.TryGetValue((low[i], high[i], target), out int state))
            {
                state = nfa.AddState();
                nfa.Bytes(state, target, low[i], high[i]);
                shared.Add((low[i], high[i], target), state);
            }

            target = state;
        }

        nfa.Bytes(from, target, low[0], high[0], action);
    }

    private static void Encode(int point, Span<byte> bytes)
    {
        for (int i = bytes.Length - 1; i > 0; i--)
        {
            bytes[i] = (byte)(0x80 | (point & 0x3F));
            point >>= 6;
        }

        bytes[0] = (byte)((bytes.Length switch { 2 => 0xC0, 3 => 0xE0, _ => 0xF0 }) | point);
    }
}
