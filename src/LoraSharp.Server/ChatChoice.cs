using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat.ToolCalls;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Server;

/// <summary>One choice of a chat's answer as it comes: text, tool calls, log-probabilities, end.</summary>
internal sealed class ChatChoice
{
    private const int CallIdLength = 24;
    private const int MistralCallIdLength = 9;

    private readonly Tokenizer _tokenizer;
    private readonly ToolPlan _plan;
    private readonly ToolCallStream? _stream;
    private readonly StringBuilder _content = new();
    private readonly List<JsonObject> _calls = [];
    private readonly bool _wantsScores;
    private readonly JsonArray _scores = [];
    private FinishReason? _finish;
    private bool _begun;

    public ChatChoice(Tokenizer tokenizer, ToolPlan plan, bool wantsScores)
    {
        _tokenizer = tokenizer;
        _plan = plan;
        _wantsScores = wantsScores;
        _stream = plan.Tools is null ? null : new ToolCallStream(plan.Format, plan.Tools);
        _ = _stream?.Add(plan.Opening);
    }

    public int Tokens { get; private set; }

    /// <summary>Takes an update of a choice that is answered as a whole.</summary>
    public void Add(TokenUpdate update) => _ = Take(update);

    /// <summary>Takes an update; what it adds to a stream, or null where nothing is certain yet.</summary>
    public JsonObject? Next(TokenUpdate update, int index)
    {
        int calls = _calls.Count;
        JsonObject delta = Delta(Take(update), calls);
        if (delta.Count == 0 && _finish is null && _scores.Count == 0)
        {
            return null;
        }

        JsonNode? scores = null;
        if (_wantsScores)
        {
            scores = new JsonObject { ["content"] = _scores.DeepClone() };
            _scores.Clear();
        }

        return new JsonObject { ["index"] = index, ["delta"] = delta, ["logprobs"] = scores, ["finish_reason"] = Reason() };
    }

    /// <summary>The whole choice.</summary>
    public JsonObject ToJson(int index)
    {
        string content = _calls.Count > 0 ? _content.ToString().Trim() : _content.ToString();
        var message = new JsonObject { ["role"] = "assistant", ["content"] = _calls.Count > 0 && content.Length == 0 ? null : content, ["refusal"] = null };
        if (_calls.Count > 0)
        {
            message["tool_calls"] = new JsonArray([.. _calls.Select(c => (JsonNode)c.DeepClone())]);
        }

        return new JsonObject { ["index"] = index, ["message"] = message, ["logprobs"] = _wantsScores ? new JsonObject { ["content"] = _scores.DeepClone() } : null, ["finish_reason"] = Reason() };
    }

    // The content that became certain; calls go to the list.
    private string Take(TokenUpdate update)
    {
        Tokens += update.Token is null ? 0 : 1;
        _finish = update.Finish ?? _finish;
        if (update.Score is { } score)
        {
            _scores.Add((JsonNode)ScoreOf(score));
        }

        AssistantText said = _stream?.Add(update.Text) ?? new AssistantText(update.Text, []);
        if (_stream is not null && _finish is not null)
        {
            AssistantText rest = _stream.End();
            said = new AssistantText(said.Content + rest.Content, [.. said.Calls, .. rest.Calls]);
        }

        _content.Append(said.Content);
        _calls.AddRange(said.Calls.Take(_plan.Parallel ? int.MaxValue : Math.Max(0, 1 - _calls.Count)).Select(ToJson));
        return said.Content;
    }

    private JsonObject Delta(string content, int firstNewCall)
    {
        var delta = new JsonObject();
        if (!_begun)
        {
            delta["role"] = "assistant";
            _begun = true;
        }

        if (content.Length > 0 || delta.Count > 0)
        {
            delta["content"] = content;
        }

        if (firstNewCall < _calls.Count)
        {
            delta["tool_calls"] = new JsonArray([.. _calls.Skip(firstNewCall).Select((c, i) =>
            {
                var call = (JsonObject)c.DeepClone();
                call["index"] = firstNewCall + i;
                return (JsonNode)call;
            })]);
        }

        return delta;
    }

    private string? Reason() => _finish is not { } finish ? null : finish == FinishReason.Stop && _calls.Count > 0 ? "tool_calls" : CompletionsEndpoint.ReasonOf(finish);

    private JsonObject ToJson(ToolCall call)
    {
        // Mistral's templates insist on ids of nine letters and digits when they come back.
        string id = call.Id ?? (_plan.Format == ToolCallFormat.Mistral ? Guid.NewGuid().ToString("N")[..MistralCallIdLength] : "call_" + Guid.NewGuid().ToString("N")[..CallIdLength]);
        return new JsonObject { ["id"] = id, ["type"] = "function", ["function"] = new JsonObject { ["name"] = call.Name, ["arguments"] = call.Arguments } };
    }

    private JsonObject ScoreOf(TokenScore score)
    {
        JsonObject own = One(score.Token, score.LogProbability);
        own["top_logprobs"] = new JsonArray([.. score.Top.Select(t => (JsonNode)One(t.Token, t.LogProbability))]);
        return own;
    }

    private JsonObject One(int token, double? log) => new()
    {
        ["token"] = TokenNames.Of(_tokenizer, token),
        ["logprob"] = log,
        ["bytes"] = new JsonArray([.. _tokenizer.TokenBytes(token).ToArray().Select(b => (JsonNode)(int)b)]),
    };
}
