using System.Text;

namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>Collects merges given as text, in the order of their ranks.</summary>
internal sealed class MergeBuilder(Vocabulary vocabulary, string? continuingSubwordPrefix)
{
    private readonly int _prefixBytes = Encoding.UTF8.GetByteCount(continuingSubwordPrefix ?? "");
    private readonly List<(int Left, int Right, int Merged)> _merges = new(1 << 16);
    private byte[] _joined = new byte[256];

    /// <summary>Adds a merge.</summary>
    /// <exception cref="FormatException">A part or the result is not in the vocabulary.</exception>
    public void Add(ReadOnlySpan<byte> left, ReadOnlySpan<byte> right)
    {
        int leftId = Require(left);
        int rightId = Require(right);
        ReadOnlySpan<byte> rest = right[Math.Min(_prefixBytes, right.Length)..];
        if (left.Length + rest.Length > _joined.Length)
        {
            _joined = new byte[2 * (left.Length + rest.Length)];
        }

        left.CopyTo(_joined);
        rest.CopyTo(_joined.AsSpan(left.Length));
        _merges.Add((leftId, rightId, Require(_joined.AsSpan(0, left.Length + rest.Length))));
    }

    /// <summary>Adds a merge written as its two parts with one blank between; a version line is no merge.</summary>
    public void AddLine(ReadOnlySpan<byte> line)
    {
        if (line.StartsWith("#version"u8))
        {
            return;
        }

        int blank = line.IndexOf((byte)' ');
        if (blank < 0 || line[(blank + 1)..].Contains((byte)' '))
        {
            throw new FormatException($"merge {_merges.Count} is '{Encoding.UTF8.GetString(line)}'; expected two tokens with one blank between");
        }

        Add(line[..blank], line[(blank + 1)..]);
    }

    public MergeTable Build()
    {
        var table = new MergeTable(_merges.Count);
        for (int rank = 0; rank < _merges.Count; rank++)
        {
            (int left, int right, int merged) = _merges[rank];
            table.Set(left, right, rank, merged);
        }

        return table;
    }

    private int Require(ReadOnlySpan<byte> token) => vocabulary.Find(token) is >= 0 and int id
        ? id
        : throw new FormatException($"merge {_merges.Count} needs the token '{Encoding.UTF8.GetString(token)}', which is not in the vocabulary");
}
