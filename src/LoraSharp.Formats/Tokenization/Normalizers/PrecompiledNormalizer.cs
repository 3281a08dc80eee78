using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Tokenization.Normalizers;

/// <summary>
/// SentencePiece's compiled normalization rules: a double-array trie (Aoe 1989, as darts-clone lays it out) from UTF-8 to
/// offsets into a block of zero-terminated replacements.
/// </summary>
internal sealed class PrecompiledNormalizer : Normalizer
{
    private readonly uint[] _units;
    private readonly byte[] _replacements;

    private PrecompiledNormalizer(uint[] units, byte[] replacements)
    {
        _units = units;
        _replacements = replacements;
    }

    /// <summary>Reads the rules as tokenizer.json holds them.</summary>
    public static PrecompiledNormalizer FromBase64(string text) => FromBytes(Convert.FromBase64String(text));

    /// <summary>Reads the rules as a SentencePiece model holds them.</summary>
    /// <exception cref="FormatException">The block's sizes contradict each other.</exception>
    public static PrecompiledNormalizer FromBytes(ReadOnlySpan<byte> block)
    {
        if (block.Length < 4)
        {
            return new PrecompiledNormalizer([], []);
        }

        uint size = BinaryPrimitives.ReadUInt32LittleEndian(block);
        if (size > block.Length - 4 || size % 4 != 0)
        {
            throw new FormatException($"the precompiled charsmap says its trie has {size} bytes; it has {block.Length} in all");
        }

        uint[] units = new uint[size / 4];
        for (int i = 0; i < units.Length; i++)
        {
            units[i] = BinaryPrimitives.ReadUInt32LittleEndian(block[(4 + 4 * i)..]);
        }

        return new PrecompiledNormalizer(units, block[(4 + (int)size)..].ToArray());
    }

    public override void Apply(AlignedText text)
    {
        var changes = new List<TextChange>(text.Text.Length);
        bool modified = false;
        string value = text.Text;
        for (int i = 0; i < value.Length;)
        {
            int end = i + StringInfo.GetNextTextElementLength(value, i);
            // The library looks a whole grapheme up only where its UTF-8 is shorter than six bytes.
            ReadOnlySpan<char> grapheme = value.AsSpan(i, end - i);
            if (Encoding.UTF8.GetByteCount(grapheme) < 6 && Find(grapheme) is { } whole)
            {
                Replace(changes, grapheme, whole);
                modified = true;
                i = end;
                continue;
            }

            while (i < end)
            {
                int codePoint = CodePoints.At(value, i, out int width);
                if (Find(value.AsSpan(i, width)) is { } replacement)
                {
                    Replace(changes, value.AsSpan(i, width), replacement);
                    modified = true;
                }
                else
                {
                    changes.Add(new TextChange(codePoint, 0));
                }

                i += width;
            }
        }

        if (modified)
        {
            text.Transform(changes);
        }
    }

    private static void Replace(List<TextChange> changes, ReadOnlySpan<char> old, string replacement)
    {
        int oldCount = 0;
        foreach (Rune _ in old.EnumerateRunes())
        {
            oldCount++;
        }

        int first = changes.Count;
        foreach (Rune rune in replacement.EnumerateRunes())
        {
            changes.Add(new TextChange(rune.Value, changes.Count - first < oldCount ? 0 : 1));
        }

        int removed = oldCount - (changes.Count - first);
        if (removed > 0 && changes.Count > 0)
        {
            changes[^1] = changes[^1] with { Delta = changes[^1].Delta - removed };
        }
    }

    // The replacement of the shortest prefix that has one, as the library takes it.
    private string? Find(ReadOnlySpan<char> key)
    {
        if (_units.Length == 0)
        {
            return null;
        }

        Span<byte> utf8 = stackalloc byte[64];
        if (Encoding.UTF8.GetByteCount(key) > utf8.Length)
        {
            return null;
        }

        int count = Encoding.UTF8.GetBytes(key, utf8);
        uint unit = _units[0];
        uint node = Offset(unit);
        for (int i = 0; i < count; i++)
        {
            node ^= utf8[i];
            if (node >= _units.Length)
            {
                return null;
            }

            unit = _units[node];
            if ((unit & 0x800000FF) != utf8[i])
            {
                return null;
            }

            node ^= Offset(unit);
            if (((unit >> 8) & 1) == 1 && node < _units.Length)
            {
                return Text((int)(_units[node] & 0x7FFFFFFF));
            }
        }

        return null;
    }

    private string Text(int offset)
    {
        if (offset >= _replacements.Length)
        {
            return "";
        }

        int length = _replacements.AsSpan(offset).IndexOf((byte)0);
        return Encoding.UTF8.GetString(_replacements.AsSpan(offset, length < 0 ? _replacements.Length - offset : length));
    }

    private static uint Offset(uint unit) => (unit >> 10) << (int)((unit & (1u << 9)) >> 6);
}
