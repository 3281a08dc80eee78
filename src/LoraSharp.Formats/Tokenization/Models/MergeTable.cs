namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>The merges of BPE: a pair of ids → its rank and the id it becomes. Open addressing, one probe in the usual case.</summary>
internal sealed class MergeTable
{
    private readonly Entry[] _entries;
    private readonly int _shift;

    public MergeTable(int capacity)
    {
        int bits = 4;
        while (1L << bits < 2L * capacity)
        {
            bits++;
        }

        _entries = new Entry[1 << bits];
        _shift = 64 - bits;
    }

    /// <summary>Adds a merge; of two for one pair the later holds, as in the <c>tokenizers</c> library.</summary>
    public void Set(int left, int right, int rank, int merged)
    {
        ulong key = Key(left, right);
        int slot = Slot(key);
        while (_entries[slot].Key != 0 && _entries[slot].Key != key)
        {
            slot = (slot + 1) & (_entries.Length - 1);
        }

        _entries[slot] = new Entry { Key = key, Rank = rank, Merged = merged };
    }

    /// <summary>Looks a pair up.</summary>
    /// <returns>Whether there is such a merge.</returns>
    public bool TryGet(int left, int right, out int rank, out int merged)
    {
        ulong key = Key(left, right);
        Entry[] entries = _entries;
        for (int slot = Slot(key); ; slot = (slot + 1) & (entries.Length - 1))
        {
            ref readonly Entry entry = ref entries[slot];
            if (entry.Key == key)
            {
                rank = entry.Rank;
                merged = entry.Merged;
                return true;
            }

            if (entry.Key == 0)
            {
                rank = int.MaxValue;
                merged = -1;
                return false;
            }
        }
    }

    // The left id is stored plus one, so that no key is 0, the mark of an empty slot.
    private static ulong Key(int left, int right) => ((ulong)(uint)(left + 1) << 32) | (uint)right;

    private int Slot(ulong key) => (int)((key * 0x9E3779B97F4A7C15 ^ key >> 29) * 0xBF58476D1CE4E5B9 >> _shift);

    private struct Entry
    {
        public ulong Key;
        public int Rank;
        public int Merged;
    }
}
