using System.Buffers;
using System.Text;

namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>
/// Unigram language model (Kudo 2018, "Subword Regularization", section 3.2): the segmentation of highest probability,
/// found by Viterbi over the byte positions. Neighbouring unknown characters are one unknown token.
/// </summary>
internal sealed class UnigramModel : TokenModel
{
    // SentencePiece's kUnkPenalty: an unknown character costs this much more than the rarest token.
    private const double UnknownPenalty = 10.0;

    private readonly Vocabulary _vocabulary;
    private readonly double[] _scores;
    private readonly int _unknownId;
    private readonly double _unknownScore;
    private readonly int[]? _byteIds;
    private readonly ByteTrie _trie;

    public UnigramModel(Vocabulary vocabulary, double[] scores, int unknownId, bool byteFallback)
    {
        _vocabulary = vocabulary;
        _scores = scores;
        _unknownId = unknownId;
        _unknownScore = (scores.Length == 0 ? 0 : scores.Min()) - UnknownPenalty;
        _trie = new ByteTrie(vocabulary);
        if (byteFallback)
        {
            _byteIds = new int[256];
            for (int value = 0; value < 256; value++)
            {
                _byteIds[value] = vocabulary.Find($"<0x{value:X2}>");
            }
        }
    }

    public override int Count => _scores.Length;

    public override int IdLimit => _vocabulary.IdLimit;

    public override int? TokenToId(string token) => _vocabulary.Find(token) is >= 0 and int id ? id : null;

    public override string? IdToToken(int id) => _vocabulary.Text(id);

    public override void Tokenize(ReadOnlySpan<char> piece, TokenBuffer output)
    {
        if (piece.IsEmpty)
        {
            return;
        }

        byte[] rented = ArrayPool<byte>.Shared.Rent(Encoding.UTF8.GetMaxByteCount(piece.Length));
        int size = Encoding.UTF8.GetBytes(piece, rented);
        ReadOnlySpan<byte> text = rented.AsSpan(0, size);
        List<(int Start, int End, bool Unknown)> path = BestPath(text);
        int position = 0, charPosition = 0;
        foreach ((int start, int end, bool unknown) in path)
        {
            int charStart = Advance(piece, charPosition, ref position, start);
            int charEnd = charPosition = Advance(piece, charStart, ref position, end);
            AddToken(text[start..end], charStart, charEnd, output);
        }

        ArrayPool<byte>.Shared.Return(rented);
    }

    private void AddToken(ReadOnlySpan<byte> token, int start, int end, TokenBuffer output)
    {
        int id = _vocabulary.Find(token);
        if (id < 0 && _byteIds is not null && token.ToArray().All(value => _byteIds[value] >= 0))
        {
            foreach (byte value in token)
            {
                output.Add(_byteIds[value], start, end);
            }

            return;
        }

        output.Add(id >= 0 ? id : RequireUnknown(token), start, end);
    }

    private int RequireUnknown(ReadOnlySpan<byte> text) => _unknownId >= 0
        ? _unknownId
        : throw new LoraSharpException($"The tokenizer has no unknown token, but '{Encoding.UTF8.GetString(text)}' needs one.");

    private List<(int Start, int End, bool Unknown)> BestPath(ReadOnlySpan<byte> text)
    {
        int size = text.Length;
        double[] best = ArrayPool<double>.Shared.Rent(size + 1);
        int[] from = ArrayPool<int>.Shared.Rent(2 * (size + 1));
        Span<int> starts = from.AsSpan(0, size + 1);
        Span<int> ids = from.AsSpan(size + 1, size + 1);
        starts.Fill(-1);
        best[0] = 0;
        for (int start = 0; start < size;)
        {
            int width = text[start] < 0x80 ? 1 : text[start] < 0xE0 ? 2 : text[start] < 0xF0 ? 3 : 4;
            double soFar = best[start];
            bool single = false;
            int node = 0;
            for (int end = start; end < size && (node = _trie.Child(node, text[end])) >= 0; end++)
            {
                int id = _trie.Id(node);
                if (id < 0)
                {
                    continue;
                }

                Offer(starts, ids, best, end + 1, start, id, _scores[id] + soFar);
                single |= end + 1 - start == width;
            }

            // An unknown token that would not win is not missed.
            if (!single && Wins(starts, best, start + width, _unknownScore + soFar))
            {
                int unknown = _unknownId >= 0 ? _unknownId : RequireUnknown(text.Slice(start, width));
                Offer(starts, ids, best, start + width, start, unknown, _unknownScore + soFar);
            }

            start += width;
        }

        var path = new List<(int, int, bool)>();
        for (int end = size; end > 0;)
        {
            int start = starts[end];
            bool unknown = ids[end] == _unknownId;
            if (unknown && path.Count > 0 && path[^1].Item3)
            {
                path[^1] = (start, path[^1].Item2, true);
            }
            else
            {
                path.Add((start, end, unknown));
            }

            end = start;
        }

        path.Reverse();
        ArrayPool<double>.Shared.Return(best);
        ArrayPool<int>.Shared.Return(from);
        return path;
    }

    private static void Offer(Span<int> starts, Span<int> ids, double[] best, int end, int start, int id, double score)
    {
        if (Wins(starts, best, end, score))
        {
            starts[end] = start;
            ids[end] = id;
            best[end] = score;
        }
    }

    private static bool Wins(Span<int> starts, double[] best, int end, double score) => starts[end] < 0 || score > best[end];

    private static int Advance(ReadOnlySpan<char> piece, int charPosition, ref int bytePosition, int target)
    {
        while (bytePosition < target)
        {
            int codePoint = CodePoints.At(piece, charPosition, out int width);
            bytePosition += codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4;
            charPosition += width;
        }

        return charPosition;
    }
}
