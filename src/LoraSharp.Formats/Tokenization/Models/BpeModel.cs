using System.Buffers;
using System.Text;

namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>What <c>tokenizer.json</c> says of a BPE model beside vocabulary and merges. Dropout is for training and ignored.</summary>
internal sealed record BpeOptions
{
    /// <summary>Token for characters the vocabulary lacks; null: they vanish.</summary>
    public string? UnknownToken { get; init; }

    /// <summary>Written before every symbol but the first of a word.</summary>
    public string? ContinuingSubwordPrefix { get; init; }

    /// <summary>Written after the last symbol of a word.</summary>
    public string? EndOfWordSuffix { get; init; }

    /// <summary>Whether neighbouring unknown characters become one unknown token.</summary>
    public bool FuseUnknown { get; init; }

    /// <summary>Whether a character the vocabulary lacks becomes tokens such as &lt;0xE2&gt;, one a byte.</summary>
    public bool ByteFallback { get; init; }

    /// <summary>Whether a word that is a token is taken whole, whatever the merges say.</summary>
    public bool IgnoreMerges { get; init; }
}

/// <summary>Byte-pair encoding, with characters as symbols.</summary>
internal sealed class BpeModel : TokenModel
{
    private readonly int[]? _byteIds;
    private readonly int _unknownId;
    private readonly WordCache _cache = new();

    public BpeModel(Vocabulary vocabulary, MergeTable merges, BpeOptions options)
    {
        Vocabulary = vocabulary;
        Merges = merges;
        Options = options;
        _unknownId = options.UnknownToken is null ? -1 : vocabulary.Find(options.UnknownToken);
        if (options.ByteFallback)
        {
            _byteIds = new int[256];
            for (int value = 0; value < 256; value++)
            {
                _byteIds[value] = vocabulary.Find($"<0x{value:X2}>");
            }
        }
    }

    public Vocabulary Vocabulary { get; }

    public MergeTable Merges { get; }

    public BpeOptions Options { get; }

    public override int Count => Vocabulary.Count;

    public override int IdLimit => Vocabulary.IdLimit;

    public override int? TokenToId(string token) => Vocabulary.Find(token) is >= 0 and int id ? id : null;

    public override string? IdToToken(int id) => Vocabulary.Text(id);

    public override void Tokenize(ReadOnlySpan<char> piece, TokenBuffer output)
    {
        if (piece.IsEmpty)
        {
            return;
        }

        if (piece.Length > WordCache.LongestWord)
        {
            TokenizeUncached(piece, output);
            return;
        }

        WordCache.Entry? entry = _cache.Find(piece, out uint hash);
        if (entry is null)
        {
            var own = new TokenBuffer();
            TokenizeUncached(piece, own);
            entry = new WordCache.Entry(piece.ToString(), own.Ids.ToArray(), ToBytes(own.Starts), ToBytes(own.Ends));
            _cache.Store(hash, entry);
        }

        output.Add(entry.Ids, entry.Starts, entry.Ends, 0);
    }

    internal static byte[] ToBytes(ReadOnlySpan<int> positions)
    {
        byte[] bytes = new byte[positions.Length];
        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = (byte)positions[i];
        }

        return bytes;
    }

    private void TokenizeUncached(ReadOnlySpan<char> piece, TokenBuffer output)
    {
        if (Options.IgnoreMerges && Vocabulary.Find(piece) is >= 0 and int whole)
        {
            output.Add(whole, 0, piece.Length);
            return;
        }

        // A character is at most three byte tokens a UTF-16 unit, and prefix and suffix are spelled in bytes with it.
        int limit = (3 + Length(Options.ContinuingSubwordPrefix)) * piece.Length + Length(Options.EndOfWordSuffix);
        int[] rented = ArrayPool<int>.Shared.Rent(2 * limit);
        Span<int> ids = rented.AsSpan(0, limit);
        Span<int> lengths = rented.AsSpan(limit, limit);
        int count = FirstSymbols(piece, ids, lengths);
        count = BpeMerger.Merge(Merges, ids[..count], lengths[..count]);
        AddTokens(piece, ids[..count], lengths[..count], output);
        ArrayPool<int>.Shared.Return(rented);
    }

    private static int Length(string? text) => text is null ? 0 : Encoding.UTF8.GetByteCount(text);

    private int FirstSymbols(ReadOnlySpan<char> piece, Span<int> ids, Span<int> lengths)
    {
        int count = 0;
        int unknownBytes = 0;
        Span<byte> utf8 = stackalloc byte[4];
        for (int i = 0; i < piece.Length;)
        {
            int codePoint = CodePoints.At(piece, i, out int width);
            bool first = i == 0;
            i += width;
            int byteCount = new Rune(codePoint).EncodeToUtf8(utf8);
            ReadOnlySpan<byte> symbol = Decorate(utf8[..byteCount], first, last: i == piece.Length);
            int id = Vocabulary.Find(symbol);
            if (id >= 0)
            {
                FlushUnknown(ids, lengths, ref count, ref unknownBytes);
                ids[count] = id;
                lengths[count++] = byteCount;
                continue;
            }

            // The library leaves an unknown token pending here: byte tokens come before it.
            if (_byteIds is not null && AllBytesKnown(symbol))
            {
                foreach (byte value in symbol)
                {
                    ids[count] = _byteIds[value];
                    lengths[count++] = 1;
                }
            }
            else if (Options.UnknownToken is not null)
            {
                if (_unknownId < 0)
                {
                    throw new LoraSharpException($"The tokenizer's unknown token '{Options.UnknownToken}' is not in its vocabulary, but '{new Rune(codePoint)}' needs it.");
                }

                if (!Options.FuseUnknown)
                {
                    FlushUnknown(ids, lengths, ref count, ref unknownBytes);
                }

                unknownBytes += byteCount;
            }
        }

        FlushUnknown(ids, lengths, ref count, ref unknownBytes);
        return count;
    }

    private ReadOnlySpan<byte> Decorate(ReadOnlySpan<byte> symbol, bool first, bool last)
    {
        bool prefix = !first && Options.ContinuingSubwordPrefix is { Length: > 0 };
        bool suffix = last && Options.EndOfWordSuffix is { Length: > 0 };
        return prefix || suffix
            ? Encoding.UTF8.GetBytes((prefix ? Options.ContinuingSubwordPrefix : "") + Encoding.UTF8.GetString(symbol) + (suffix ? Options.EndOfWordSuffix : ""))
            : symbol;
    }

    private bool AllBytesKnown(ReadOnlySpan<byte> symbol)
    {
        foreach (byte value in symbol)
        {
            if (_byteIds![value] < 0)
            {
                return false;
            }
        }

        return true;
    }

    private void FlushUnknown(Span<int> ids, Span<int> lengths, ref int count, ref int unknownBytes)
    {
        if (unknownBytes > 0)
        {
            ids[count] = _unknownId;
            lengths[count++] = unknownBytes;
            unknownBytes = 0;
        }
    }

    // Byte lengths to UTF-16 positions: a token that holds part of a character covers all of it.
    internal static void AddTokens(ReadOnlySpan<char> piece, ReadOnlySpan<int> ids, ReadOnlySpan<int> lengths, TokenBuffer output)
    {
        int charStart = 0, byteStart = 0, width = 0, bytes = 0;
        if (piece.Length > 0)
        {
            Measure(piece, 0, out width, out bytes);
        }

        int position = 0;
        for (int i = 0; i < ids.Length; i++)
        {
            int start = charStart;
            position += lengths[i];
            while (charStart < piece.Length && position >= byteStart + bytes)
            {
                byteStart += bytes;
                charStart += width;
                if (charStart < piece.Length)
                {
                    Measure(piece, charStart, out width, out bytes);
                }
            }

            int end = position > byteStart && charStart < piece.Length ? charStart + width : charStart;
            output.Add(ids[i], start, end);
        }
    }

    private static void Measure(ReadOnlySpan<char> piece, int index, out int width, out int bytes)
    {
        int codePoint = CodePoints.At(piece, index, out width);
        bytes = codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4;
    }
}
