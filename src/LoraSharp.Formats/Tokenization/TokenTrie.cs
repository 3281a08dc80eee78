using System.Buffers;

namespace LoraSharp.Formats.Tokenization;

/// <summary>Finds the leftmost, then longest, of a set of strings.</summary>
internal sealed class TokenTrie
{
    private readonly Dictionary<long, int> _children = [];
    private readonly List<int> _values = [-1];
    private readonly SearchValues<char> _firstChars;

    /// <summary>Builds it; of two equal strings the first holds.</summary>
    public TokenTrie(IEnumerable<(string Text, int Value)> entries)
    {
        var firsts = new HashSet<char>();
        foreach ((string text, int value) in entries)
        {
            int node = 0;
            foreach (char unit in text)
            {
                if (!_children.TryGetValue(Key(node, unit), out int child))
                {
                    child = _values.Count;
                    _values.Add(-1);
                    _children.Add(Key(node, unit), child);
                }

                node = child;
            }

            if (text.Length > 0)
            {
                firsts.Add(text[0]);
                _values[node] = _values[node] < 0 ? value : _values[node];
            }
        }

        _firstChars = SearchValues.Create([.. firsts]);
    }

    /// <summary>The next match at or after a position.</summary>
    /// <returns>False when there is none.</returns>
    public bool TryFind(ReadOnlySpan<char> text, int from, out int start, out int end, out int value)
    {
        for (start = from; start < text.Length; start++)
        {
            int skipped = text[start..].IndexOfAny(_firstChars);
            if (skipped < 0)
            {
                break;
            }

            start += skipped;
            if (TryMatch(text, start, out end, out value))
            {
                return true;
            }
        }

        start = end = text.Length;
        value = -1;
        return false;
    }

    private bool TryMatch(ReadOnlySpan<char> text, int start, out int end, out int value)
    {
        end = start;
        value = -1;
        int node = 0;
        for (int i = start; i < text.Length && _children.TryGetValue(Key(node, text[i]), out node); i++)
        {
            if (_values[node] >= 0)
            {
                end = i + 1;
                value = _values[node];
            }
        }

        return value >= 0;
    }

    private static long Key(int node, char unit) => ((long)node << 16) | unit;
}
