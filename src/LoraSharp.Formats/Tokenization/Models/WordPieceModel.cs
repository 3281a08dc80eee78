using System.Text;

namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>WordPiece (BERT): the longest token from the left, again and again; a word that does not work out is unknown whole.</summary>
internal sealed class WordPieceModel(Vocabulary vocabulary, string unknownToken, string prefix, int longestWord) : TokenModel
{
    private readonly byte[] _prefix = Encoding.UTF8.GetBytes(prefix);

    public override int Count => vocabulary.Count;

    public override int IdLimit => vocabulary.IdLimit;

    public override int? TokenToId(string token) => vocabulary.Find(token) is >= 0 and int id ? id : null;

    public override string? IdToToken(int id) => vocabulary.Text(id);

    public override void Tokenize(ReadOnlySpan<char> piece, TokenBuffer output)
    {
        int codePoints = 0;
        foreach (Rune _ in piece.EnumerateRunes())
        {
            codePoints++;
        }

        int before = output.Count;
        if (codePoints > longestWord || !TryTokenize(piece, output))
        {
            output.Truncate(before);
            int unknown = vocabulary.Find(unknownToken);
            if (unknown < 0)
            {
                throw new LoraSharpException($"The tokenizer's unknown token '{unknownToken}' is not in its vocabulary, but '{piece}' needs it.");
            }

            output.Add(unknown, 0, piece.Length);
        }
    }

    private bool TryTokenize(ReadOnlySpan<char> piece, TokenBuffer output)
    {
        byte[] buffer = new byte[_prefix.Length + Encoding.UTF8.GetMaxByteCount(piece.Length)];
        _prefix.CopyTo(buffer, 0);
        for (int start = 0; start < piece.Length;)
        {
            int skipped = start > 0 ? 0 : _prefix.Length;
            int length = _prefix.Length + Encoding.UTF8.GetBytes(piece[start..], buffer.AsSpan(_prefix.Length));
            int end = piece.Length;
            int id = -1;
            while (end > start && (id = vocabulary.Find(buffer.AsSpan(skipped, length - skipped))) < 0)
            {
                int last = CodePoints.Before(piece, end);
                length -= last < 0x80 ? 1 : last < 0x800 ? 2 : last < 0x10000 ? 3 : 4;
                end -= last < 0x10000 ? 1 : 2;
            }

            if (id < 0)
            {
                return false;
            }

            output.Add(id, start, end);
            start = end;
        }

        return true;
    }
}

/// <summary>One token a word.</summary>
internal sealed class WordLevelModel(Vocabulary vocabulary, string unknownToken) : TokenModel
{
    public override int Count => vocabulary.Count;

    public override int IdLimit => vocabulary.IdLimit;

    public override int? TokenToId(string token) => vocabulary.Find(token) is >= 0 and int id ? id : null;

    public override string? IdToToken(int id) => vocabulary.Text(id);

    public override void Tokenize(ReadOnlySpan<char> piece, TokenBuffer output)
    {
        int id = vocabulary.Find(piece);
        id = id >= 0 ? id : vocabulary.Find(unknownToken);
        if (id < 0)
        {
            throw new LoraSharpException($"The tokenizer's unknown token '{unknownToken}' is not in its vocabulary, but '{piece}' needs it.");
        }

        output.Add(id, 0, piece.Length);
    }
}
