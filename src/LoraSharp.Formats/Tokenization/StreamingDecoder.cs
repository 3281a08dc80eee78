namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// Decodes ids as they are generated. The pieces, put together, are what <see cref="Tokenizer.Decode"/> gives for all
/// ids at once; a character whose bytes are spread over several tokens comes out whole or not yet. Not thread-safe.
/// </summary>
public sealed class StreamingDecoder
{
    // Decoders look at neighbours (blanks of the first token, runs of byte tokens), so a few settled tokens are decoded along.
    private const int SettledContext = 8;

    private readonly Tokenizer _tokenizer;
    private readonly bool _skipSpecialTokens;
    private readonly List<int> _ids = [];
    private int _settled;

    /// <summary>Starts a stream.</summary>
    /// <param name="tokenizer">The tokenizer of the ids.</param>
    /// <param name="skipSpecial">Whether special tokens are left out.</param>
    public StreamingDecoder(Tokenizer tokenizer, bool skipSpecial = true)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        _tokenizer = tokenizer;
        _skipSpecialTokens = skipSpecial;
    }

    /// <summary>Takes the next id.</summary>
    /// <returns>The text that is certain now; empty while a character is incomplete.</returns>
    public string Add(int id)
    {
        _ids.Add(id);
        string text = _tokenizer.Decode(_ids, _skipSpecialTokens);
        // A replacement character at the end may be the first bytes of a character to come.
        return text.EndsWith('\uFFFD') ? "" : Settle(text);
    }

    /// <summary>Ends the stream.</summary>
    /// <returns>What was held back, incomplete characters as U+FFFD.</returns>
    public string Flush()
    {
        string text = Settle(_tokenizer.Decode(_ids, _skipSpecialTokens));
        _ids.Clear();
        _settled = 0;
        return text;
    }

    private string Settle(string text)
    {
        string before = _settled == 0 ? "" : _tokenizer.Decode(_ids.GetRange(0, _settled), _skipSpecialTokens);
        string added = text.StartsWith(before, StringComparison.Ordinal) ? text[before.Length..] : "";
        _settled = _ids.Count;
        if (_settled > 2 * SettledContext)
        {
            _ids.RemoveRange(0, _settled - SettledContext);
            _settled = SettledContext;
        }

        return added;
    }
}
