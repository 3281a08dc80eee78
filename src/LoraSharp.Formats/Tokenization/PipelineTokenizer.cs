using System.Text;
using LoraSharp.Formats.Tokenization.Decoders;
using LoraSharp.Formats.Tokenization.Models;
using LoraSharp.Formats.Tokenization.Normalizers;
using LoraSharp.Formats.Tokenization.PostProcessors;
using LoraSharp.Formats.Tokenization.PreTokenizers;

namespace LoraSharp.Formats.Tokenization;

/// <summary>The parts of a tokenizer as <c>tokenizer.json</c> lists them.</summary>
internal sealed record TokenizerParts
{
    public required TokenModel Model { get; init; }

    public IReadOnlyList<AddedToken> AddedTokens { get; init; } = [];

    public Normalizer? Normalizer { get; init; }

    public PreTokenizer? PreTokenizer { get; init; }

    public PostProcessor? PostProcessor { get; init; }

    public TokenDecoder? Decoder { get; init; }
}

/// <summary>The roles that <c>tokenizer_config.json</c> and its kin give to tokens.</summary>
internal sealed record SpecialTokens(string? Bos, string? Eos, string? Pad);

/// <summary>
/// Normalizer → pre-tokenizer → model → post-processor, and a decoder back, as the <c>tokenizers</c> library runs them
/// (its documentation, "The tokenization pipeline").
/// </summary>
internal sealed class PipelineTokenizer : Tokenizer
{
    private readonly TokenizerParts _parts;
    private readonly AddedVocabulary _added;
    private readonly ByteLevelEncoder? _short;

    public PipelineTokenizer(TokenizerParts parts, SpecialTokens special, bool useShortWay = true)
    {
        _parts = parts;
        _added = new AddedVocabulary(parts.AddedTokens, parts.Model, parts.Normalizer);
        // Tokens looked for in normalized text are no hindrance: plain text that a normalizer leaves alone is its own.
        _short = useShortWay && !_added.HasNormalized ? ByteLevelEncoder.Create(parts.Model, parts.PreTokenizer) : null;
        VocabularySize = Math.Max(parts.Model.IdLimit, _added.IdLimit);
        BosTokenId = special.Bos is null ? null : TokenToId(special.Bos);
        EosTokenId = special.Eos is null ? null : TokenToId(special.Eos);
        PadTokenId = special.Pad is null ? null : TokenToId(special.Pad);
    }

    public override int VocabularySize { get; }

    public override int? BosTokenId { get; }

    public override int? EosTokenId { get; }

    public override int? PadTokenId { get; }

    /// <summary>Whether text goes the short way of <see cref="ByteLevelEncoder"/>.</summary>
    internal bool HasShortWay => _short is not null;

    public override int[] Encode(string text, bool addSpecialTokens = true) => [.. Run(text, addSpecialTokens, withTokens: false).Ids];

    public override TokenizedText EncodeWithOffsets(string text, bool addSpecialTokens = true)
    {
        EncodedTokens tokens = Run(text, addSpecialTokens, withTokens: _parts.PostProcessor is not null);
        return new TokenizedText([.. tokens.Ids], [.. tokens.Offsets]);
    }

    public override string Decode(IReadOnlyList<int> ids, bool skipSpecialTokens = false)
    {
        ArgumentNullException.ThrowIfNull(ids);
        var tokens = new List<string>(ids.Count);
        foreach (int id in ids)
        {
            string? token = _added.DecodedForm(id) ?? _parts.Model.IdToToken(id);
            if (token is not null && !(skipSpecialTokens && _added.IsSpecialText(token)))
            {
                tokens.Add(token);
            }
        }

        return _parts.Decoder is null ? string.Join(' ', tokens) : string.Concat(_parts.Decoder.Apply(tokens));
    }

    public override int? TokenToId(string token) => _added.Find(token) ?? _parts.Model.TokenToId(token);

    public override string? IdToToken(int id) => _added.Find(id)?.Content ?? _parts.Model.IdToToken(id);

    public override bool IsSpecial(int id) => _added.Find(id) is { Special: true };

    public override ReadOnlyMemory<byte> TokenBytes(int id)
    {
        if (_added.Find(id) is { } added)
        {
            return Encoding.UTF8.GetBytes(added.Content);
        }

        return _parts.Model.IdToToken(id) is { } token ? _parts.Decoder?.BytesOf(token) ?? Encoding.UTF8.GetBytes(token) : ReadOnlyMemory<byte>.Empty;
    }

    private EncodedTokens Run(string text, bool addSpecialTokens, bool withTokens)
    {
        ArgumentNullException.ThrowIfNull(text);
        text = CodePoints.WellFormed(text);
        var ids = new List<int>();
        var offsets = new List<(int, int)>();
        List<string>? texts = withTokens ? [] : null;
        var buffer = new TokenBuffer();
        if (_short is not null)
        {
            _added.CutRaw(text, (start, end, id) =>
            {
                if (id >= 0)
                {
                    Add(id, start, end, text[start..end]);
                }
                else if (_parts.Normalizer?.LeavesAlone(text.AsSpan(start, end - start)) ?? true)
                {
                    buffer.Clear();
                    _short.Encode(text, start, end, buffer);
                    for (int i = 0; i < buffer.Count; i++)
                    {
                        Add(buffer.Ids[i], buffer.Starts[i], buffer.Ends[i], null);
                    }
                }
                else
                {
                    var part = new AlignedText(text[start..end], start);
                    _parts.Normalizer!.Apply(part);
                    AddPieces([new Piece(part)]);
                }
            });
        }
        else
        {
            AddPieces(_added.Extract(text, _parts.Normalizer));
        }

        var tokens = new EncodedTokens { Ids = ids, Offsets = offsets, Tokens = texts };
        return _parts.PostProcessor is null ? tokens : EncodedTokens.Join(_parts.PostProcessor.Apply([tokens], addSpecialTokens));

        void Add(int id, int start, int end, string? token)
        {
            ids.Add(id);
            offsets.Add((start, end));
            texts?.Add(token ?? _parts.Model.IdToToken(id) ?? "");
        }

        void AddPieces(List<Piece> pieces)
        {
            foreach (Piece piece in _parts.PreTokenizer?.Apply(pieces) ?? pieces)
            {
                string content = piece.Text.Text;
                if (piece.AddedId >= 0)
                {
                    (int start, int end) = piece.Text.OriginalRange(0, content.Length);
                    Add(piece.AddedId, start, end, content);
                    continue;
                }

                buffer.Clear();
                _parts.Model.Tokenize(content, buffer);
                for (int i = 0; i < buffer.Count; i++)
                {
                    (int start, int end) = piece.Text.OriginalRange(buffer.Starts[i], buffer.Ends[i]);
                    Add(buffer.Ids[i], start, end, null);
                }
            }
        }
    }
}
