namespace LoraSharp.Serving.Cache;

/// <summary>
/// Who uses which block of the key-value cache: counts and lists, no tensors. A block is free, used by one or more
/// sequences, or idle: nobody uses it, but its content is known by a key and may be taken up again until its place is
/// needed. The longest idle one goes first.
/// </summary>
/// <param name="count">Blocks in all.</param>
internal sealed class BlockPool(int count)
{
    private readonly int[] _users = new int[count];
    private readonly PrefixKey?[] _keys = new PrefixKey?[count];
    private readonly Stack<int> _free = new(Enumerable.Range(0, count).Reverse());
    private readonly LinkedList<int> _idle = new();
    private readonly LinkedListNode<int>?[] _idleNodes = new LinkedListNode<int>?[count];
    private readonly Dictionary<PrefixKey, int> _byKey = [];

    /// <summary>Blocks in all.</summary>
    public int Count => count;

    /// <summary>Blocks that <see cref="TryTake"/> can give: free and idle ones.</summary>
    public int Available => _free.Count + _idle.Count;

    /// <summary>Blocks that sequences use.</summary>
    public int Used => count - Available;

    /// <summary>Blocks that nobody uses and whose content is kept.</summary>
    public int Idle => _idle.Count;

    /// <summary>A block for one user, its content undefined; null when all are in use.</summary>
    public int? TryTake()
    {
        if (!_free.TryPop(out int block))
        {
            if (_idle.First is not { } oldest)
            {
                return null;
            }

            block = oldest.Value;
            Wake(block);
            _byKey.Remove(_keys[block]!.Value);
            _keys[block] = null;
        }

        _users[block] = 1;
        return block;
    }

    /// <summary>The block with this content, with one more user; null when there is none.</summary>
    public int? TryShare(PrefixKey key)
    {
        if (!_byKey.TryGetValue(key, out int block))
        {
            return null;
        }

        if (_users[block]++ == 0)
        {
            Wake(block);
        }

        return block;
    }

    /// <summary>Makes the content of a full block known. Where another block holds the same, that one stays the known one.</summary>
    public void Publish(int block, PrefixKey key)
    {
        RequireUsed(block);
        if (_keys[block] is null && _byKey.TryAdd(key, block))
        {
            _keys[block] = key;
        }
    }

    /// <summary>One user fewer. Release a sequence's blocks from the last to the first: ends go before beginnings.</summary>
    public void Release(int block)
    {
        RequireUsed(block);
        if (--_users[block] > 0)
        {
            return;
        }

        if (_keys[block] is null)
        {
            _free.Push(block);
        }
        else
        {
            _idleNodes[block] = _idle.AddLast(block);
        }
    }

    /// <summary>Forgets all contents; blocks in use stay with their users.</summary>
    public void ForgetContents()
    {
        foreach (int block in _idle)
        {
            _free.Push(block);
            _idleNodes[block] = null;
        }

        _idle.Clear();
        _byKey.Clear();
        Array.Clear(_keys);
    }

    private void Wake(int block)
    {
        _idle.Remove(_idleNodes[block]!);
        _idleNodes[block] = null;
    }

    private void RequireUsed(int block)
    {
        if (_users[block] <= 0)
        {
            throw new InvalidOperationException($"Block {block} is used by nobody.");
        }
    }
}
