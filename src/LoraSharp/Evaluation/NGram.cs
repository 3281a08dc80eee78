namespace LoraSharp.Evaluation;

/// <summary>Some tokens in a row, compared by their text.</summary>
internal readonly struct NGram : IEquatable<NGram>
{
    private readonly string[] _tokens;
    private readonly int _start;
    private readonly int _length;
    private readonly int _hash;

    private NGram(string[] tokens, int start, int length)
    {
        _tokens = tokens;
        _start = start;
        _length = length;
        var hash = new HashCode();
        for (int i = 0; i < length; i++)
        {
            hash.Add(tokens[start + i]);
        }

        _hash = hash.ToHashCode();
    }

    public static Dictionary<NGram, int> Count(string[] tokens, int n)
    {
        var counts = new Dictionary<NGram, int>();
        for (int i = 0; i + n <= tokens.Length; i++)
        {
            var gram = new NGram(tokens, i, n);
            counts[gram] = counts.GetValueOrDefault(gram) + 1;
        }

        return counts;
    }

    public bool Equals(NGram other) => _hash == other._hash && _tokens.AsSpan(_start, _length).SequenceEqual(other._tokens.AsSpan(other._start, other._length));

    public override bool Equals(object? obj) => obj is NGram other && Equals(other);

    public override int GetHashCode() => _hash;
}

/// <summary>What every metric with references asks of its input.</summary>
internal static class References
{
    public static void Check(IReadOnlyList<string> hypotheses, IReadOnlyList<IReadOnlyList<string>> references)
    {
        if (hypotheses.Count != references.Count)
        {
            throw new ArgumentException($"there are {hypotheses.Count} hypotheses and references for {references.Count} segments; expected as many", nameof(references));
        }

        for (int i = 0; i < references.Count; i++)
        {
            if (references[i].Count == 0)
            {
                throw new ArgumentException($"segment {i} has no reference; expected at least one", nameof(references));
            }
        }
    }
}
