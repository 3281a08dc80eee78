using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Inference;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary><c>POST /v1/completions</c>: prompts as text or token ids, one or several.</summary>
internal sealed class CompletionsEndpoint(ServedModel model, ServerOptions options)
{
    private const int MostPrompts = 256;
    private const int MostChoices = 16;
    private const int DefaultTokens = 16;

    public async Task HandleAsync(HttpContext context)
    {
        RequestBody body = await RequestBody.ReadAsync(context).ConfigureAwait(false);
        string? adapter = LoraServer.AdapterOf(body, model, options);
        IReadOnlyList<int[]> prompts = Prompts(body);
        int n = body.Whole("n", 1, MostChoices) ?? 1;
        var shape = new Shape(body.Whole("logprobs", 0, 20), body.Flag("return_tokens_as_token_ids") || model.Tokenizer is null, body.Flag("echo"));
        GenerationOptions generation = body.Generation(DefaultTokens, model.Defaults);
        InferenceRequest[] requests = [.. prompts.SelectMany(p => Enumerable.Range(0, n).Select(i => new InferenceRequest
        {
            Prompt = p,
            Adapter = adapter,
            Options = generation with { Sampling = generation.Sampling with { Seed = generation.Sampling.Seed + i } },
            LogProbabilities = shape.LogProbabilities,
            PromptLogProbabilities = shape.Echo && shape.LogProbabilities is not null,
        }))];
        JsonObject Envelope(JsonArray choices) => new()
        {
            ["id"] = "cmpl-" + context.TraceIdentifier.Replace(":", ""),
            ["object"] = "text_completion",
            ["created"] = DateTimeOffset.UtcNow.ToUnixTimeSeconds(),
            ["model"] = adapter ?? options.ModelName,
            ["choices"] = choices,
        };
        if (body.Flag("stream"))
        {
            await StreamAsync(context, requests, shape, Envelope).ConfigureAwait(false);
            return;
        }

        Choice[] done = await Task.WhenAll(requests.Select(r => CollectAsync(r, shape, context.RequestAborted))).ConfigureAwait(false);
        JsonObject answer = Envelope([.. done.Select((c, i) => (JsonNode)c.ToJson(i))]);
        answer["usage"] = Usage(prompts.Sum(p => p.Length), done.Sum(c => c.Tokens));
        context.Response.ContentType = "application/json";
        await context.Response.WriteAsync(answer.ToJsonString(), context.RequestAborted).ConfigureAwait(false);
    }

    internal static JsonObject Usage(int prompt, int completion) => new() { ["prompt_tokens"] = prompt, ["completion_tokens"] = completion, ["total_tokens"] = prompt + completion };

    internal static string ReasonOf(FinishReason reason) => reason == FinishReason.Length ? "length" : "stop";

    private async Task StreamAsync(HttpContext context, InferenceRequest[] requests, Shape shape, Func<JsonArray, JsonObject> envelope)
    {
        var events = new EventStream(context);
        var gate = new SemaphoreSlim(1);
        await events.RunAsync(() => Task.WhenAll(requests.Select(async (request, index) =>
        {
            var choice = new Choice(model, shape, request);
            await foreach (TokenUpdate update in model.Engine.GenerateAsync(request, context.RequestAborted).ConfigureAwait(false))
            {
                var piece = new Choice(model, shape, request) { Position = choice.Position, IsFirst = choice.IsFirst };
                piece.Add(update);
                choice.Position = piece.Position;
                choice.IsFirst = false;
                await gate.WaitAsync(context.RequestAborted).ConfigureAwait(false);
                try
                {
                    await events.SendAsync(envelope([piece.ToJson(index)])).ConfigureAwait(false);
                }
                finally
                {
                    gate.Release();
                }
            }
        }))).ConfigureAwait(false);
    }

    private async Task<Choice> CollectAsync(InferenceRequest request, Shape shape, CancellationToken cancellation)
    {
        var choice = new Choice(model, shape, request);
        await foreach (TokenUpdate update in model.Engine.GenerateAsync(request, cancellation).ConfigureAwait(false))
        {
            choice.Add(update);
        }

        return choice;
    }

    private List<int[]> Prompts(RequestBody body)
    {
        JsonNode prompt = body.Value("prompt") ?? throw ApiError.Invalid("prompt", "prompt is missing.");
        List<int[]> prompts = prompt switch
        {
            JsonArray list when list.Count > 0 && list[0]?.GetValueKind() == JsonValueKind.Number => [Ids(list)],
            JsonArray list when list.Count is > 0 and <= MostPrompts => [.. list.Select(One)],
            JsonArray => throw ApiError.Invalid("prompt", $"prompt: expected 1 to {MostPrompts} entries."),
            _ => [One(prompt)],
        };
        return prompts;
    }

    private int[] One(JsonNode? prompt) => prompt switch
    {
        JsonArray ids => Ids(ids),
        not null when prompt.GetValueKind() == JsonValueKind.String => model.Tokenizer?.Encode(prompt.GetValue<string>())
            ?? throw ApiError.Invalid("prompt", "The model has no tokenizer: give token ids."),
        _ => throw RequestBody.Wrong("prompt", "text or token ids", prompt),
    };

    private static int[] Ids(JsonArray ids) => [.. ids.Select(n => n?.GetValueKind() == JsonValueKind.Number && n.AsValue().TryGetValue(out int id) ? id : throw RequestBody.Wrong("prompt", "token ids", n))];

    internal sealed record Shape(int? LogProbabilities, bool TokensAsIds, bool Echo);

    /// <summary>One choice of an answer as it comes together.</summary>
    private sealed class Choice(ServedModel model, Shape shape, InferenceRequest request)
    {
        private readonly StringBuilder _text = new();
        private readonly JsonArray _tokens = [];
        private readonly JsonArray _scores = [];
        private readonly JsonArray _tops = [];
        private readonly JsonArray _offsets = [];
        private FinishReason? _finish;

        public int Tokens { get; private set; }

        /// <summary>Characters before what comes next, for text_offset.</summary>
        public int Position { get; set; }

        public bool IsFirst { get; set; } = true;

        public void Add(TokenUpdate update)
        {
            if (IsFirst && shape.Echo)
            {
                _text.Append(model.Tokenizer?.Decode(request.Prompt, skipSpecialTokens: true));
                foreach (TokenScore score in update.PromptScores ?? [])
                {
                    Add(score);
                }
            }

            IsFirst = false;
            _text.Append(update.Text);
            Tokens += update.Token is null ? 0 : 1;
            if (update.Score is { } own)
            {
                Add(own);
            }

            _finish = update.Finish ?? _finish;
        }

        public JsonObject ToJson(int index) => new()
        {
            ["index"] = index,
            ["text"] = _text.ToString(),
            ["logprobs"] = shape.LogProbabilities is null ? null : new JsonObject { ["tokens"] = _tokens, ["token_logprobs"] = _scores, ["top_logprobs"] = _tops, ["text_offset"] = _offsets },
            ["finish_reason"] = _finish is { } reason ? ReasonOf(reason) : null,
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
            _offsets.Add(Position);
            Position += name.Length;
        }

        private string NameOf(int token) => shape.TokensAsIds ? $"token_id:{token}" : model.Tokenizer!.Decode([token]);
    }
}
