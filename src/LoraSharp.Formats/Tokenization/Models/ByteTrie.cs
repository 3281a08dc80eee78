namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>Tokens of a vocabulary by their bytes, for finding all tokens that begin at a position.</summary>
internal sealed class ByteTrie
{
    // Children of a node, sorted by byte, lie side by side: nodes are laid out level by level from the sorted tokens.
    private readonly List<int> _firstChild = [];
    private readonly List<byte> _labels = [];
    private readonly List<int> _ids = [];

    public ByteTrie(Vocabulary vocabulary)
    {
        int[] tokens = [.. Enumerable.Range(0, vocabulary.IdLimit).Where(id => vocabulary.Utf8(id).Length > 0 && vocabulary.Find(vocabulary.Utf8(id)) == id)];
        Array.Sort(tokens, (left, right) => vocabulary.Utf8(left).SequenceCompareTo(vocabulary.Utf8(right)));
        Build(vocabulary, tokens);
    }

    /// <summary>The token that ends at a node, or -1.</summary>
    public int Id(int node) => _ids[node];

    /// <summary>The child for a byte, or -1.</summary>
    public int Child(int node, byte label)
    {
        int low = _firstChild[node], high = _firstChild[node + 1] - 1;
        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            if (_labels[middle] == label)
            {
                return middle;
            }

            if (_labels[middle] < label)
            {
                low = middle + 1;
            }
            else
            {
                high = middle - 1;
            }
        }

        return -1;
    }

    private void Build(Vocabulary vocabulary, int[] tokens)
    {
        var queue = new Queue<(int From, int To, int Depth)>();
        _labels.Add(0);
        _ids.Add(-1);
        queue.Enqueue((0, tokens.Length, 0));
        while (queue.TryDequeue(out (int From, int To, int Depth) range))
        {
            _firstChild.Add(_labels.Count);
            (int from, int to, int depth) = range;
            while (from < to)
            {
                // A token that ends here is the first of its range, since the shorter sorts first.
                if (vocabulary.Utf8(tokens[from]).Length == depth)
                {
                    from++;
                    continue;
                }

                byte label = vocabulary.Utf8(tokens[from])[depth];
                int end = from + 1;
                while (end < to && vocabulary.Utf8(tokens[end])[depth] == label)
                {
                    end++;
                }

                _labels.Add(label);
                _ids.Add(vocabulary.Utf8(tokens[from]).Length == depth + 1 ? tokens[from] : -1);
                queue.Enqueue((from, end, depth + 1));
                from = end;
            }
        }

        _firstChild.Add(_labels.Count);
    }
}
