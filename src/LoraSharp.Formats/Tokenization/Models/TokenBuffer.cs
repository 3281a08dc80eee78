namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>Growing list of token ids, each with the stretch [start, end) of UTF-16 units of the piece it came from.</summary>
internal sealed class TokenBuffer
{
    private int[] _ids = new int[64];
    private int[] _starts = new int[64];
    private int[] _ends = new int[64];

    public int Count { get; private set; }

    public ReadOnlySpan<int> Ids => _ids.AsSpan(0, Count);

    public ReadOnlySpan<int> Starts => _starts.AsSpan(0, Count);

    public ReadOnlySpan<int> Ends => _ends.AsSpan(0, Count);

    public void Add(int id, int start, int end)
    {
        if (Count == _ids.Length)
        {
            Grow(Count + 1);
        }

        _ids[Count] = id;
        _starts[Count] = start;
        _ends[Count] = end;
        Count++;
    }

    /// <summary>Appends tokens whose positions are relative to <paramref name="offset"/>.</summary>
    public void Add(ReadOnlySpan<int> ids, ReadOnlySpan<byte> starts, ReadOnlySpan<byte> ends, int offset)
    {
        if (Count + ids.Length > _ids.Length)
        {
            Grow(Count + ids.Length);
        }

        for (int i = 0; i < ids.Length; i++)
        {
            _ids[Count + i] = ids[i];
            _starts[Count + i] = offset + starts[i];
            _ends[Count + i] = offset + ends[i];
        }

        Count += ids.Length;
    }

    public void Clear() => Count = 0;

    public void Truncate(int count) => Count = count;

    private void Grow(int needed)
    {
        int size = Math.Max(needed, _ids.Length * 2);
        Array.Resize(ref _ids, size);
        Array.Resize(ref _starts, size);
        Array.Resize(ref _ends, size);
    }
}
