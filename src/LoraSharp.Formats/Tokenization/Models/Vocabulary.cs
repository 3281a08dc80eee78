using System.Buffers.Binary;
using System.Text;

namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>
/// Tokens and ids, kept as one block of UTF-8 and an open-addressing index over it: no string is made while a
/// vocabulary of 100,000 and more tokens is loaded.
/// </summary>
internal sealed class Vocabulary
{
    /// <summary>No real vocabulary comes near; a larger id is a lie that would allocate gigabytes.</summary>
    public const int LargestId = 1 << 25;

    private readonly byte[] _bytes;
    private readonly int[] _starts;
    private readonly int[] _lengths;
    private readonly int[] _slots;
    private readonly string?[] _texts;

    private Vocabulary(byte[] bytes, int[] starts, int[] lengths, int[] slots, int count)
    {
        _bytes = bytes;
        _starts = starts;
        _lengths = lengths;
        _slots = slots;
        _texts = new string?[starts.Length];
        Count = count;
    }

    /// <summary>Number of distinct tokens.</summary>
    public int Count { get; }

    /// <summary>One more than the largest id.</summary>
    public int IdLimit => _starts.Length;

    /// <summary>The id of a token given as UTF-8, or -1.</summary>
    public int Find(ReadOnlySpan<byte> token)
    {
        int mask = _slots.Length - 1;
        for (int slot = (int)Hash(token) & mask; ; slot = (slot + 1) & mask)
        {
            int id = _slots[slot] - 1;
            if (id < 0)
            {
                return -1;
            }

            if (_lengths[id] == token.Length && _bytes.AsSpan(_starts[id], token.Length).SequenceEqual(token))
            {
                return id;
            }
        }
    }

    /// <summary>The id of a token, or -1.</summary>
    public int Find(ReadOnlySpan<char> token)
    {
        int limit = Encoding.UTF8.GetMaxByteCount(token.Length);
        Span<byte> utf8 = limit <= 512 ? stackalloc byte[512] : new byte[limit];
        return Find(utf8[..Encoding.UTF8.GetBytes(token, utf8)]);
    }

    /// <summary>The UTF-8 of a token; empty when there is none of this id.</summary>
    public ReadOnlySpan<byte> Utf8(int id) => (uint)id < (uint)_starts.Length && _lengths[id] >= 0 ? _bytes.AsSpan(_starts[id], _lengths[id]) : default;

    /// <summary>A token as text; null when there is none of this id.</summary>
    public string? Text(int id)
    {
        if ((uint)id >= (uint)_starts.Length || _lengths[id] < 0)
        {
            return null;
        }

        return _texts[id] ??= Encoding.UTF8.GetString(Utf8(id));
    }

    private static uint Hash(ReadOnlySpan<byte> token)
    {
        const ulong Factor = 0x9E3779B97F4A7C15;
        ulong hash = (ulong)token.Length * Factor;
        while (token.Length >= 8)
        {
            hash = (ulong.RotateLeft(hash, 5) ^ BinaryPrimitives.ReadUInt64LittleEndian(token)) * Factor;
            token = token[8..];
        }

        ulong rest = 0;
        for (int i = 0; i < token.Length; i++)
        {
            rest |= (ulong)token[i] << (8 * i);
        }

        hash = (ulong.RotateLeft(hash, 5) ^ rest) * Factor;
        return (uint)(hash >> 32);
    }

    /// <summary>Collects tokens; of two entries for one token the later holds, as in a JSON object.</summary>
    internal sealed class Builder
    {
        private byte[] _bytes = new byte[1 << 16];
        private int[] _starts = [];
        private int[] _lengths = [];
        private int _used;
        private int _limit;

        public void Add(ReadOnlySpan<byte> token, int id)
        {
            if (id is < 0 or > LargestId)
            {
                throw new FormatException($"token id {id} is out of range; expected 0 to {LargestId}");
            }

            if (id >= _starts.Length)
            {
                int old = _starts.Length;
                int size = Math.Max(id + 1, Math.Max(4096, old * 2));
                Array.Resize(ref _starts, size);
                Array.Resize(ref _lengths, size);
                _lengths.AsSpan(old).Fill(-1);
            }

            if (_used + token.Length > _bytes.Length)
            {
                Array.Resize(ref _bytes, Math.Max(_used + token.Length, _bytes.Length * 2));
            }

            token.CopyTo(_bytes.AsSpan(_used));
            _starts[id] = _used;
            _lengths[id] = token.Length;
            _used += token.Length;
            _limit = Math.Max(_limit, id + 1);
        }

        public Vocabulary Build()
        {
            int size = 16;
            while (size < 2 * _limit)
            {
                size *= 2;
            }

            int[] slots = new int[size];
            int[] starts = _starts.AsSpan(0, _limit).ToArray();
            int[] lengths = _lengths.AsSpan(0, _limit).ToArray();
            int count = 0;
            for (int id = 0; id < _limit; id++)
            {
                if (lengths[id] < 0)
                {
                    continue;
                }

                ReadOnlySpan<byte> token = _bytes.AsSpan(starts[id], lengths[id]);
                int slot = (int)Hash(token) & (size - 1);
                while (slots[slot] != 0)
                {
                    int other = slots[slot] - 1;
                    if (lengths[other] == token.Length && _bytes.AsSpan(starts[other], token.Length).SequenceEqual(token))
                    {
                        break;
                    }

                    slot = (slot + 1) & (size - 1);
                }

                count += slots[slot] == 0 ? 1 : 0;
                slots[slot] = id + 1;
            }

            return new Vocabulary(_bytes, starts, lengths, slots, count);
        }
    }
}
