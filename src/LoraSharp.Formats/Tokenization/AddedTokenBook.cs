using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// The added tokens of a folder without <c>tokenizer.json</c>, with the ids they get: a token of the vocabulary keeps
/// its own, others follow the vocabulary in the order they are added.
/// </summary>
internal sealed class AddedTokenBook
{
    private readonly Dictionary<string, int> _vocabulary;
    private readonly string _folder;
    private readonly List<AddedToken> _tokens = [];
    private readonly Dictionary<string, int> _places = new(StringComparer.Ordinal);
    private int _next;

    /// <param name="vocabulary">Ids of the vocabulary's tokens.</param>
    /// <param name="folder">What to call the folder in errors.</param>
    public AddedTokenBook(Dictionary<string, int> vocabulary, string folder)
    {
        (_vocabulary, _folder) = (vocabulary, folder);
        _next = vocabulary.Count;
    }

    /// <summary>Adds a token whose id a file states.</summary>
    /// <exception cref="MalformedFileException">It would get another id.</exception>
    public void Declare(AddedToken token)
    {
        int id = Add(token);
        if (id != token.Id)
        {
            throw new MalformedFileException(
                _folder,
                $"the added token '{token.Content}' has the id {token.Id} in the folder's files, but {(_vocabulary.ContainsKey(token.Content) ? $"vocab.json gives it {id}" : $"the next free id after vocab.json's {_vocabulary.Count} tokens is {id}")}. A vocab.json or a list of added tokens of another model?");
        }
    }

    /// <summary>Makes sure that a token is there and special.</summary>
    public void Require(AddedToken token)
    {
        if (_places.TryGetValue(token.Content, out int place))
        {
            _tokens[place] = _tokens[place] with { Special = true };
        }
        else
        {
            Add(token);
        }
    }

    /// <summary>The id of a token that was added.</summary>
    public int IdOf(string content) => _tokens[_places[content]].Id;

    /// <summary>As tokenizer.json lists them.</summary>
    public JsonArray ToJson() => new([.. _tokens.Select(token => (JsonNode)new JsonObject
    {
        ["id"] = token.Id,
        ["content"] = token.Content,
        ["single_word"] = token.SingleWord,
        ["lstrip"] = token.StripLeft,
        ["rstrip"] = token.StripRight,
        ["normalized"] = token.Normalized,
        ["special"] = token.Special,
    })]);

    private int Add(AddedToken token)
    {
        int id = _vocabulary.TryGetValue(token.Content, out int known) ? known : _next++;
        _places[token.Content] = _tokens.Count;
        _tokens.Add(token with { Id = id });
        return id;
    }
}
