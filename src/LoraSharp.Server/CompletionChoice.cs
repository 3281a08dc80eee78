using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Server;

/// <summary>What a completion shows of each token.</summary>
/// <param name="LogProbabilities">Likeliest tokens beside the chosen one; null for no log-probabilities.</param>
/// <param name="TokensAsIds">Tokens are called <c>token_id:N</c>.</param>
/// <param name="Echo">The prompt comes first.</param>
/// <param name="PromptOnly">Nothing but the prompt is shown.</param>
internal sealed record CompletionShape(int? LogProbabilities, bool TokensAsIds, bool Echo, bool PromptOnly);

/// <summary>One choice of a completion, or of a stream's next piece of it, as it comes together.</summary>
internal sealed class CompletionChoice(ServedModel model, CompletionShape shape, InferenceRequest request)
{
    private readonly StringBuilder _text = new();
    private readonly JsonArray _tokens = [];
    private readonly JsonArray _scores = [];
    private readonly JsonArray _tops = [];
    private readonly JsonArray _offsets = [];
    private FinishReason? _finish;
    private bool _first = true;
    private int _position;

    public int Tokens { get; private set; }

    /// <summary>What follows this piece, empty yet.</summary>
    public CompletionChoice Next() => new(model, shape, request) { _first = false, _position = _position };

    public void Add(TokenUpdate update)
    {
        if (_first && shape.Echo)
        {
            _text.Append(model.Tokenizer?.Decode(request.Prompt, skipSpecialTokens: true));
            foreach (TokenScore score in update.PromptScores ?? [])
            {
                Add(score);
            }
        }

        _first = false;
        _finish = shape.PromptOnly ? FinishReason.Length : update.Finish ?? _finish;
        if (shape.PromptOnly)
        {
            return;
        }

        _text.Append(update.Text);
        Tokens += update.Token is null ? 0 : 1;
        if (update.Score is { } own)
        {
            Add(own);
        }
    }

    public JsonObject ToJson(int index) => new()
    {
        ["index"] = index,
        ["text"] = _text.ToString(),
        ["logprobs"] = shape.LogProbabilities is null ? null : new JsonObject { ["tokens"] = _tokens, ["token_logprobs"] = _scores, ["top_logprobs"] = _tops, ["text_offset"] = _offsets },
        ["finish_reason"] = _finish is { } reason ? CompletionsEndpoint.ReasonOf(reason) : null,
    };

    private void Add(TokenScore score)
    {
        string name = NameOf(score.Token);
        _tokens.Add(name);
        _scores.Add(score.LogProbability);
        var top = new JsonObject();
        foreach ((int token, double log) in score.Top)
        {
            top[NameOf(token)] = log;
        }

        if (score.LogProbability is { } chosen)
        {
            top[name] ??= chosen;
        }

        _tops.Add(score.LogProbability is null ? null : top);
        _offsets.Add(_position);
        _position += model.Tokenizer?.Decode([score.Token], skipSpecialTokens: true).Length ?? 0;
    }

    private string NameOf(int token) => shape.TokensAsIds ? $"token_id:{token}" : TokenNames.Of(model.Tokenizer!, token);
}
