using System.Buffers;
using System.Text;
using LoraSharp.Formats.Tokenization.PreTokenizers;

namespace LoraSharp.Formats.Tokenization.Models;

/// <summary>
/// The short way for byte-level BPE over plain text: words are cut from the text itself and their UTF-8 bytes are the
/// first symbols, without writing the byte-level alphabet out. Gives what the general pipeline gives, which stays the
/// reference it is tested against.
/// </summary>
internal sealed class ByteLevelEncoder
{
    private readonly BpeModel _model;
    private readonly SpanSplitter[] _splitters;
    private readonly int[] _byteIds;
    private readonly WordCache _cache = new();

    private ByteLevelEncoder(BpeModel model, SpanSplitter[] splitters, int[] byteIds)
    {
        _model = model;
        _splitters = splitters;
        _byteIds = byteIds;
    }

    /// <summary>The encoder, or null where model or pre-tokenizer do something it cannot do.</summary>
    public static ByteLevelEncoder? Create(TokenModel model, PreTokenizer? preTokenizer)
    {
        if (model is not BpeModel { Options: { ContinuingSubwordPrefix: null or "", EndOfWordSuffix: null or "" } } bpe || preTokenizer is null)
        {
            return null;
        }

        IReadOnlyList<PreTokenizer> steps = preTokenizer is SequencePreTokenizer sequence ? sequence.Steps : [preTokenizer];
        var splitters = new List<SpanSplitter>();
        for (int i = 0; i < steps.Count - 1; i++)
        {
            if (steps[i] is not SpanSplitter splitter)
            {
                return null;
            }

            splitters.Add(splitter);
        }

        if (steps.Count == 0 || steps[^1] is not ByteLevelPreTokenizer { AddPrefixSpace: false } byteLevel)
        {
            return null;
        }

        if (byteLevel.Words is not null)
        {
            splitters.Add(byteLevel.Words);
        }

        int[] byteIds = new int[256];
        for (int value = 0; value < 256; value++)
        {
            byteIds[value] = bpe.Vocabulary.Find([ByteLevelAlphabet.ToChar((byte)value)]);
            if (byteIds[value] < 0)
            {
                return null;
            }
        }

        return new ByteLevelEncoder(bpe, [.. splitters], byteIds);
    }

    /// <summary>Appends the tokens of text[start..end), positions in the text.</summary>
    public void Encode(string text, int start, int end, TokenBuffer output)
    {
        List<MatchSpan> spans = [new(start, end, false)];
        List<MatchSpan> next = new((end - start) / 4 + 1);
        foreach (SpanSplitter splitter in _splitters)
        {
            next.Clear();
            foreach (MatchSpan span in spans)
            {
                if (!span.IsMatch && span.End > span.Start)
                {
                    splitter.SplitSpan(text, span.Start, span.End, next);
                }
            }

            (spans, next) = (next, spans);
        }

        foreach (MatchSpan span in spans)
        {
            if (!span.IsMatch && span.End > span.Start)
            {
                EncodeWord(text.AsSpan(span.Start, span.End - span.Start), span.Start, output);
            }
        }
    }

    private void EncodeWord(ReadOnlySpan<char> word, int offset, TokenBuffer output)
    {
        if (word.Length > WordCache.LongestWord)
        {
            var own = new TokenBuffer();
            Merge(word, own);
            for (int i = 0; i < own.Count; i++)
            {
                output.Add(own.Ids[i], offset + own.Starts[i], offset + own.Ends[i]);
            }

            return;
        }

        WordCache.Entry? entry = _cache.Find(word, out uint hash);
        if (entry is null)
        {
            var own = new TokenBuffer();
            Merge(word, own);
            entry = new WordCache.Entry(word.ToString(), own.Ids.ToArray(), BpeModel.ToBytes(own.Starts), BpeModel.ToBytes(own.Ends));
            _cache.Store(hash, entry);
        }

        output.Add(entry.Ids, entry.Starts, entry.Ends, offset);
    }

    private void Merge(ReadOnlySpan<char> word, TokenBuffer output)
    {
        int limit = Encoding.UTF8.GetMaxByteCount(word.Length);
        byte[] utf8 = ArrayPool<byte>.Shared.Rent(3 * limit);
        int count = Encoding.UTF8.GetBytes(word, utf8);
        if (_model.Options.IgnoreMerges && FindWhole(utf8.AsSpan(0, count), utf8.AsSpan(limit)) is >= 0 and int whole)
        {
            output.Add(whole, 0, word.Length);
            ArrayPool<byte>.Shared.Return(utf8);
            return;
        }

        int[] rented = ArrayPool<int>.Shared.Rent(2 * count);
        Span<int> ids = rented.AsSpan(0, count);
        Span<int> lengths = rented.AsSpan(count, count);
        for (int i = 0; i < count; i++)
        {
            ids[i] = _byteIds[utf8[i]];
            lengths[i] = 1;
        }

        count = BpeMerger.Merge(_model.Merges, ids, lengths);
        BpeModel.AddTokens(word, ids[..count], lengths[..count], output);
        ArrayPool<int>.Shared.Return(rented);
        ArrayPool<byte>.Shared.Return(utf8);
    }

    // Characters of the alphabet are below U+0800: one or two bytes of UTF-8 each.
    private int FindWhole(ReadOnlySpan<byte> word, Span<byte> buffer)
    {
        int used = 0;
        foreach (byte value in word)
        {
            char unit = ByteLevelAlphabet.ToChar(value);
            if (unit < 0x80)
            {
                buffer[used++] = (byte)unit;
            }
            else
            {
                buffer[used++] = (byte)(0xC0 | (unit >> 6));
                buffer[used++] = (byte)(0x80 | (unit & 0x3F));
            }
        }

        return _model.Vocabulary.Find(buffer[..used]);
    }
}
