using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Inference.Constraints;

/// <summary>
/// The bytes of every token as a tree, laid out in the order of a walk: a node's descendants follow it, so that a walk is
/// one loop over arrays, and where no automaton goes on the whole branch is jumped over.
/// </summary>
internal sealed class TokenVocabulary
{
    private readonly byte[] _labels;
    private readonly ushort[] _depths;
    private readonly int[] _ends;
    private readonly int[] _firstToken;
    private readonly int[] _tokenCounts;
    private readonly int[] _tokens;
    private readonly byte[][] _bytes;

    /// <summary>Reads a tokenizer's tokens. Special tokens and those without bytes are no text and are left out.</summary>
    public TokenVocabulary(Tokenizer tokenizer)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        Size = tokenizer.VocabularySize;
        _bytes = new byte[Size][];
        var ids = new List<int>(Size);
        for (int id = 0; id < Size; id++)
        {
            _bytes[id] = tokenizer.IsSpecial(id) ? [] : tokenizer.TokenBytes(id).ToArray();
            if (_bytes[id].Length is > 0 and <= ushort.MaxValue)
            {
                ids.Add(id);
                LongestToken = Math.Max(LongestToken, _bytes[id].Length);
                MostOpened = Math.Max(MostOpened, _bytes[id].Count(b => b is (byte)'{' or (byte)'['));
            }
        }

        int[] sorted = [.. ids];
        Array.Sort(sorted, (a, b) => _bytes[a].AsSpan().SequenceCompareTo(_bytes[b]) is var order && order != 0 ? order : a.CompareTo(b));
        var labels = new List<byte> { 0 };
        var depths = new List<ushort> { 0 };
        var first = new List<int> { 0 };
        var counts = new List<int> { 0 };
        var path = new List<int> { 0 };
        var ends = new List<int> { 0 };
        byte[] last = [];
        for (int i = 0; i < sorted.Length; i++)
        {
            byte[] token = _bytes[sorted[i]];
            int common = token.AsSpan().CommonPrefixLength(last);
            Leave(common);
            for (int d = common; d < token.Length; d++)
            {
                path.Add(labels.Count);
                labels.Add(token[d]);
                depths.Add((ushort)(d + 1));
                first.Add(i);
                counts.Add(0);
                ends.Add(0);
            }

            // Tokens lie in the order of the walk: those of a node, which are of the same bytes, before those of its descendants.
            counts[path[^1]]++;

            last = token;
        }

        Leave(-1);
        (_labels, _depths, _ends, _firstToken, _tokenCounts, _tokens) = ([.. labels], [.. depths], [.. ends], [.. first], [.. counts], sorted);

        void Leave(int depth)
        {
            while (path.Count - 1 > depth)
            {
                ends[path[^1]] = labels.Count;
                path.RemoveAt(path.Count - 1);
            }
        }
    }

    /// <summary>One more than the largest token id.</summary>
    public int Size { get; }

    /// <summary>Bytes of the longest token.</summary>
    public int LongestToken { get; }

    /// <summary>Most objects and arrays that one token can open.</summary>
    public int MostOpened { get; }

    /// <summary>Nodes of the tree; 0 is its root.</summary>
    public int NodeCount => _labels.Length;

    /// <summary>The byte that leads to a node.</summary>
    public byte Label(int node) => _labels[node];

    /// <summary>Bytes from the root.</summary>
    public int Depth(int node) => _depths[node];

    /// <summary>The node behind a node's last descendant.</summary>
    public int End(int node) => _ends[node];

    /// <summary>Tokens that end at a node.</summary>
    public ReadOnlySpan<int> TokensAt(int node) => _tokens.AsSpan(_firstToken[node], _tokenCounts[node]);

    /// <summary>The bytes of a token; empty for special ones and ids beyond the vocabulary.</summary>
    public ReadOnlySpan<byte> Bytes(int token) => (uint)token < (uint)_bytes.Length ? _bytes[token] : default;
}
