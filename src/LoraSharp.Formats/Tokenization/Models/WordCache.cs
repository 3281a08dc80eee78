using System.Runtime.InteropServices;

namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>
/// Tokens of words seen before: natural text repeats its words. A fixed number of slots, each holding an immutable
/// entry that is replaced whole, so that threads need no lock.
/// </summary>
internal sealed class WordCache
{
    /// <summary>Longer words are not worth a slot, and positions fit a byte.</summary>
    public const int LongestWord = 64;

    private const int Slots = 1 << 15;
    private readonly Entry?[] _entries = new Entry?[Slots];

    public Entry? Find(ReadOnlySpan<char> word, out uint hash)
    {
        hash = Hash(word);
        Entry? entry = Volatile.Read(ref _entries[hash & (Slots - 1)]);
        return entry is not null && word.SequenceEqual(entry.Word) ? entry : null;
    }

    public void Store(uint hash, Entry entry) => Volatile.Write(ref _entries[hash & (Slots - 1)], entry);

    private static uint Hash(ReadOnlySpan<char> word)
    {
        const ulong Factor = 0x9E3779B97F4A7C15;
        ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(word);
        ulong hash = (ulong)bytes.Length * Factor;
        while (bytes.Length >= 8)
        {
            hash = (ulong.RotateLeft(hash, 5) ^ MemoryMarshal.Read<ulong>(bytes)) * Factor;
            bytes = bytes[8..];
        }

        ulong rest = 0;
        for (int i = 0; i < bytes.Length; i += 2)
        {
            rest = (rest << 16) | MemoryMarshal.Read<ushort>(bytes[i..]);
        }

        hash = (ulong.RotateLeft(hash, 5) ^ rest) * Factor;
        return (uint)(hash >> 40);
    }

    /// <summary>A word's tokens; positions in UTF-16 units of the word.</summary>
    internal sealed record Entry(string Word, int[] Ids, byte[] Starts, byte[] Ends);
}
