using System.Runtime.InteropServices;

namespace LoraSharp.Serving.Cache;

/// <summary>The blocks of one sequence in order, and how far they are filled.</summary>
/// <param name="pool">Where they come from.</param>
/// <param name="blockSize">Tokens a block.</param>
/// <param name="share">Whether full blocks are shared with other sequences.</param>
internal sealed class SequenceBlocks(BlockPool pool, int blockSize, bool share)
{
    private readonly List<int> _blocks = [];
    private PrefixKey _key;
    private int _published;

    /// <summary>The table: token t lies in block <c>Table[t / blockSize]</c>.</summary>
    public ReadOnlySpan<int> Table => CollectionsMarshal.AsSpan(_blocks);

    /// <summary>Tokens whose keys and values are there.</summary>
    public int Computed { get; private set; }

    /// <summary>
    /// Takes what is known of a beginning of the tokens from other sequences, and room for the rest; all or nothing. At
    /// least one token is left to compute, for its logits.
    /// </summary>
    /// <param name="tokens">The sequence.</param>
    /// <param name="room">Tokens to make room for at once, at least <paramref name="tokens"/>'s number.</param>
    /// <param name="content">Key before the first token.</param>
    public bool TryStart(ReadOnlySpan<int> tokens, int room, PrefixKey content)
    {
        _key = content;
        while (share && (_blocks.Count + 1) * blockSize < tokens.Length)
        {
            PrefixKey next = _key.Next(tokens.Slice(_blocks.Count * blockSize, blockSize));
            if (pool.TryShare(next) is not { } block)
            {
                break;
            }

            _blocks.Add(block);
            _key = next;
        }

        Computed = _blocks.Count * blockSize;
        _published = _blocks.Count;
        if (TryGrow(room))
        {
            return true;
        }

        Release();
        return false;
    }

    /// <summary>Blocks for so many tokens; false when there are not enough (those that were had are kept).</summary>
    public bool TryGrow(int tokens)
    {
        while (_blocks.Count * blockSize < tokens)
        {
            if (pool.TryTake() is not { } block)
            {
                return false;
            }

            _blocks.Add(block);
        }

        return true;
    }

    /// <summary>So many more tokens are there; blocks that have become full are made known.</summary>
    public void Advance(int count, ReadOnlySpan<int> tokens)
    {
        Computed += count;
        while (share && (_published + 1) * blockSize <= Computed)
        {
            _key = _key.Next(tokens.Slice(_published * blockSize, blockSize));
            pool.Publish(_blocks[_published++], _key);
        }
    }

    /// <summary>Everything is to be computed anew into the same blocks; only where nothing is shared.</summary>
    public void Rewind()
    {
        if (share)
        {
            throw new InvalidOperationException("Blocks that are shared can't be written again.");
        }

        Computed = 0;
    }

    /// <summary>Gives all blocks back at once.</summary>
    public void Release()
    {
        for (int i = _blocks.Count - 1; i >= 0; i--)
        {
            pool.Release(_blocks[i]);
        }

        _blocks.Clear();
        Computed = 0;
        _published = 0;
    }
}
