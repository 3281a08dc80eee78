using LoraSharp.Formats.Tokenization.Models;
using LoraSharp.Formats.Tokenization.Normalizers;
using LoraSharp.Formats.Tokenization.PreTokenizers;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// The added tokens, and how a text is cut at them: those with normalized = false in the raw text first, the others in
/// the normalized text of what is left.
/// </summary>
internal sealed class AddedVocabulary
{
    private readonly Dictionary<int, AddedToken> _byId = [];
    private readonly Dictionary<string, int> _byContent = new(StringComparer.Ordinal);
    private readonly Dictionary<int, string> _normalizedContent = [];
    private readonly HashSet<string> _special = new(StringComparer.Ordinal);
    private readonly TokenTrie? _raw;
    private readonly TokenTrie? _normalized;

    /// <summary>Adds tokens in order. As in the library, a token that the model knows keeps the model's id, and one it does not know takes the next free one.</summary>
    public AddedVocabulary(IEnumerable<AddedToken> tokens, TokenModel model, Normalizer? normalizer)
    {
        int next = model.Count;
        foreach (AddedToken token in tokens)
        {
            if (token.Content.Length == 0)
            {
                continue;
            }

            int id = _byContent.TryGetValue(token.Content, out int known) ? known : model.TokenToId(token.Content) ?? next++;
            if (token.Normalized && normalizer is not null)
            {
                var text = new AlignedText(token.Content, 0);
                normalizer.Apply(text);
                if (text.Text != token.Content)
                {
                    _normalizedContent[id] = text.Text;
                }
            }

            _byContent[token.Content] = id;
            _byId[id] = token with { Id = id };
            if (token.Special)
            {
                _special.Add(token.Content);
            }
        }

        IdLimit = _byId.Count == 0 ? 0 : _byId.Keys.Max() + 1;
        var byId = _byId.Values.OrderBy(token => token.Id).ToList();
        _raw = Trie(byId.Where(token => !token.Normalized).Select(token => (token.Content, token.Id)));
        _normalized = Trie(byId.Where(token => token.Normalized).Select(token => (_normalizedContent.GetValueOrDefault(token.Id, token.Content), token.Id)));
    }

    /// <summary>One more than the largest id of an added token; 0 when there is none.</summary>
    public int IdLimit { get; }

    /// <summary>Whether some tokens are looked for in the normalized text.</summary>
    public bool HasNormalized => _normalized is not null;

    public IEnumerable<AddedToken> Tokens => _byId.Values;

    public int? Find(string content) => _byContent.TryGetValue(content, out int id) ? id : null;

    public AddedToken? Find(int id) => _byId.GetValueOrDefault(id);

    /// <summary>What a decoder gets to see of an added token: its normalized form, which the decoder undoes.</summary>
    public string? DecodedForm(int id) => _byId.TryGetValue(id, out AddedToken? token) ? _normalizedContent.GetValueOrDefault(id, token.Content) : null;

    /// <summary>Whether a token's text is that of a special token.</summary>
    public bool IsSpecialText(string token) => _special.Contains(token);

    /// <summary>Cuts a raw text at the tokens with normalized = false; calls with id -1 for what lies between.</summary>
    public void CutRaw(string text, Action<int, int, int> emit) => Cut(text, _raw, emit);

    /// <summary>Cuts a text and normalizes what is no added token.</summary>
    public List<Piece> Extract(string text, Normalizer? normalizer)
    {
        var pieces = new List<Piece>();
        Cut(text, _raw, (start, end, id) =>
        {
            var part = new AlignedText(text[start..end], start);
            if (id >= 0)
            {
                pieces.Add(new Piece(part, id));
                return;
            }

            normalizer?.Apply(part);
            Cut(part.Text, _normalized, (from, to, normalizedId) => pieces.Add(new Piece(part.Slice(from, to), normalizedId)));
        });
        return pieces;
    }

    private void Cut(string text, TokenTrie? trie, Action<int, int, int> emit)
    {
        int previous = 0;
        int from = 0;
        while (trie is not null && trie.TryFind(text, from, out int start, out int end, out int id))
        {
            from = end;
            AddedToken token = _byId[id];
            if (token.SingleWord && (TouchesWordBefore(text, start) || TouchesWordAfter(text, end)))
            {
                continue;
            }

            if (token.StripLeft)
            {
                int blank = start;
                while (blank > 0 && char.IsWhiteSpace(text[blank - 1]))
                {
                    blank--;
                }

                start = Math.Max(blank, previous);
            }

            while (token.StripRight && end < text.Length && char.IsWhiteSpace(text[end]))
            {
                end++;
            }

            if (previous < start)
            {
                emit(previous, start, -1);
            }

            // The blanks of the token before may have swallowed all of this one: then it is gone.
            if (start < end)
            {
                emit(start, end, id);
            }

            previous = Math.Max(start, end);
        }

        if (previous < text.Length)
        {
            emit(previous, text.Length, -1);
        }
    }

    private static bool TouchesWordBefore(string text, int start) => start > 0 && CodePoints.IsWord(CodePoints.Before(text, start));

    private static bool TouchesWordAfter(string text, int end) => end < text.Length && CodePoints.IsWord(CodePoints.At(text, end, out _));

    private static TokenTrie? Trie(IEnumerable<(string, int)> entries)
    {
        (string, int)[] all = [.. entries];
        return all.Length == 0 ? null : new TokenTrie(all);
    }
}
