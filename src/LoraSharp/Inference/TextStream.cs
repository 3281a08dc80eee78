using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Inference;

/// <summary>
/// The text of a growing list of tokens, given out as it becomes certain: never half a character, and never the
/// beginning of what may turn out to be a stop string.
/// </summary>
internal sealed class TextStream
{
    private readonly Tokenizer _tokenizer;
    private readonly IReadOnlyList<string> _stops;
    private readonly List<int> _ids = [];
    private readonly System.Text.StringBuilder _text = new();
    private readonly bool _skipSpecialTokens;
    private int _decodedFrom;
    private int _decodedTo;
    private int _given;

    public TextStream(Tokenizer tokenizer, IReadOnlyList<string> stops, bool skipSpecialTokens = true)
    {
        _tokenizer = tokenizer;
        _stops = stops;
        _skipSpecialTokens = skipSpecialTokens;
    }

    /// <summary>Everything so far, cut before a stop string.</summary>
    public string Text => _text.ToString();

    /// <summary>Whether a stop string has come.</summary>
    public bool Stopped { get; private set; }

    /// <summary>Takes a token and gives the text that became certain.</summary>
    public string Add(int id)
    {
        _ids.Add(id);

        // A token's text depends on the one before it (spaces), so the difference of two decodings is taken.
        string before = Decode(_decodedFrom, _decodedTo);
        string after = Decode(_decodedFrom, _ids.Count);
        if (after.Length <= before.Length || after.EndsWith('\uFFFD'))
        {
            return string.Empty;
        }

        _decodedFrom = _decodedTo;
        _decodedTo = _ids.Count;
        _text.Append(after, before.Length, after.Length - before.Length);
        return Give(HeldBack());
    }

    /// <summary>What was still held back; nothing more comes.</summary>
    public string Flush()
    {
        if (!Stopped)
        {
            string before = Decode(_decodedFrom, _decodedTo);
            string after = Decode(_decodedFrom, _ids.Count);
            if (after.Length > before.Length)
            {
                _text.Append(after, before.Length, after.Length - before.Length);
                _decodedTo = _ids.Count;
                HeldBack();
            }
        }

        return Give(0);
    }

    private string Decode(int from, int to) => _tokenizer.Decode(_ids.GetRange(from, to - from), _skipSpecialTokens);

    private string Give(int heldBack)
    {
        int end = Math.Max(_given, _text.Length - heldBack);
        string piece = _text.ToString(_given, end - _given);
        _given = end;
        return piece;
    }

    // How many characters at the end may be the beginning of a stop string; cuts the text where a whole one stands.
    private int HeldBack()
    {
        if (_stops.Count == 0)
        {
            return 0;
        }

        string tail = _text.ToString(_given, _text.Length - _given);
        int first = _stops.Select(s => tail.IndexOf(s, StringComparison.Ordinal)).Where(i => i >= 0).DefaultIfEmpty(-1).Min();
        if (first >= 0)
        {
            _text.Length = _given + first;
            Stopped = true;
            return 0;
        }

        for (int length = Math.Min(tail.Length, _stops.Max(s => s.Length) - 1); length > 0; length--)
        {
            string end = tail[^length..];
            if (_stops.Any(s => s.StartsWith(end, StringComparison.Ordinal)))
            {
                return length;
            }
        }

        return 0;
    }
}
