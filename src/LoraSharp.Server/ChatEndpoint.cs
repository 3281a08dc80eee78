using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat.ToolCalls;
using LoraSharp.Inference;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary><c>POST /v1/chat/completions</c>: the model's chat template renders the messages.</summary>
internal sealed class ChatEndpoint(ServedModel model, ServerOptions options)
{
    private const int MostChoices = 16;
    private const int MostMessages = 10_000;
    private const int MostTools = 128;

    public async Task HandleAsync(HttpContext context)
    {
        RequestBody body = await RequestBody.ReadAsync(context).ConfigureAwait(false);
        var scope = RequestScope.Of(context);
        string? adapter = scope.Choose(body.Text("model"));
        if (body.Object("response_format") is { } format && (string?)format["type"] is not (null or "text"))
        {
            throw ApiError.Invalid("response_format", "response_format: only text can be had; constrained output is not there yet.");
        }

        int[] prompt = Render(body);
        int n = body.Whole("n", 1, MostChoices) ?? 1;
        int? top = body.Flag("logprobs") ? body.Whole("top_logprobs", 0, 20) ?? 0 : null;
        if (body.Has("top_logprobs") && top is null)
        {
            throw ApiError.Invalid("top_logprobs", "top_logprobs is given without logprobs: true.");
        }

        JsonArray? tools = body.List("tools", MostTools);
        bool usage = body.Object("stream_options") is { } wanted && (bool?)wanted["include_usage"] == true;
        GenerationOptions generation = SamplingFields.Read(body, options.DefaultMaxTokens, 1, model.Defaults);
        bool stream = body.Flag("stream");
        scope.Admit([prompt]);
        InferenceRequest[] requests = [.. Enumerable.Range(0, n).Select(i => new InferenceRequest
        {
            Prompt = prompt,
            Adapter = adapter,
            Options = generation with { Sampling = generation.Sampling with { Seed = unchecked(generation.Sampling.Seed + i) } },
            LogProbabilities = top,
        })];
        JsonObject Envelope(string kind, JsonArray choices) => new()
        {
            ["id"] = "chatcmpl-" + scope.Id,
            ["object"] = kind,
            ["created"] = DateTimeOffset.UtcNow.ToUnixTimeSeconds(),
            ["model"] = scope.Model,
            ["choices"] = choices,
        };
        if (stream)
        {
            await StreamAsync(context, requests, Envelope, usage).ConfigureAwait(false);
            return;
        }

        (JsonObject Choice, int Tokens)[] done = await Task.WhenAll(requests.Select((r, i) => CollectAsync(scope, r, i, tools, context.RequestAborted))).ConfigureAwait(false);
        JsonObject answer = Envelope("chat.completion", [.. done.Select(d => (JsonNode)d.Choice)]);
        answer["usage"] = CompletionsEndpoint.Usage(prompt.Length, done.Sum(d => d.Tokens));
        await JsonBody.WriteAsync(context, answer).ConfigureAwait(false);
    }

    private int[] Render(RequestBody body)
    {
        if (model.Tokenizer is null || model.Template is null)
        {
            throw new ApiError(StatusCodes.Status400BadRequest, "The model has no tokenizer or no chat template: use /v1/completions.");
        }

        if (body.List("messages", MostMessages) is not { Count: > 0 } messages)
        {
            throw ApiError.Invalid("messages", "messages: expected a list of at least one message.");
        }

        var plain = new JsonArray();
        foreach (JsonNode? message in messages)
        {
            JsonObject one = message as JsonObject ?? throw RequestBody.Wrong("messages", "objects with role and content", message);
            var copy = (JsonObject)one.DeepClone();
            if (copy["content"] is JsonArray parts)
            {
                // Content in parts: texts follow each other; a text model has no use for others.
                copy["content"] = string.Concat(parts.Select(p => (string?)p?["type"] == "text" ? (string?)p["text"] : throw ApiError.Invalid("messages", "Only text can be read.")));
            }

            plain.Add((JsonNode)copy);
        }

        var variables = body.Object("chat_template_kwargs") ?? [];
        if (body.List("tools", MostTools) is { } tools)
        {
            variables["tools"] = tools.DeepClone();
        }

        // The template writes the special tokens itself.
        return model.Tokenizer.Encode(model.Template.Render(plain, addGenerationPrompt: true, variables).Text, addSpecialTokens: false);
    }

    private async Task<(JsonObject Choice, int Tokens)> CollectAsync(RequestScope scope, InferenceRequest request, int index, JsonArray? tools, CancellationToken cancellation)
    {
        var text = new StringBuilder();
        var scores = new JsonArray();
        int tokens = 0;
        FinishReason finish = FinishReason.Length;
        await foreach (TokenUpdate update in scope.GenerateAsync(request, cancellation).ConfigureAwait(false))
        {
            text.Append(update.Text);
            tokens += update.Token is null ? 0 : 1;
            finish = update.Finish ?? finish;
            if (update.Score is { } score)
            {
                scores.Add((JsonNode)ScoreOf(score));
            }
        }

        var message = new JsonObject { ["role"] = "assistant", ["content"] = text.ToString() };
        string reason = CompletionsEndpoint.ReasonOf(finish);
        if (tools is not null && new ToolCallParser(ToolCallParser.Detect(model.Template!.Source), tools).Parse(text.ToString()) is { Calls.Count: > 0 } said)
        {
            message["content"] = said.Content.Length > 0 ? said.Content : null;
            message["tool_calls"] = new JsonArray([.. said.Calls.Select(c => (JsonNode)new JsonObject
            {
                ["id"] = c.Id ?? "call_" + Guid.NewGuid().ToString("N"),
                ["type"] = "function",
                ["function"] = new JsonObject { ["name"] = c.Name, ["arguments"] = c.Arguments },
            })]);
            reason = "tool_calls";
        }

        return (new JsonObject { ["index"] = index, ["message"] = message, ["logprobs"] = request.LogProbabilities is null ? null : new JsonObject { ["content"] = scores }, ["finish_reason"] = reason }, tokens);
    }

    private async Task StreamAsync(HttpContext context, InferenceRequest[] requests, Func<string, JsonArray, JsonObject> envelope, bool usage)
    {
        const string Kind = "chat.completion.chunk";
        using var events = new EventStream(context);
        var scope = RequestScope.Of(context);
        await events.RunAsync(async () =>
        {
            await Task.WhenAll(requests.Select(async (request, index) =>
            {
                bool first = true;
                await foreach (TokenUpdate update in scope.GenerateAsync(request, context.RequestAborted).ConfigureAwait(false))
                {
                    var delta = new JsonObject { ["content"] = update.Text };
                    if (first)
                    {
                        delta["role"] = "assistant";
                        first = false;
                    }

                    var choice = new JsonObject
                    {
                        ["index"] = index,
                        ["delta"] = delta,
                        ["logprobs"] = update.Score is { } score ? new JsonObject { ["content"] = new JsonArray(ScoreOf(score)) } : null,
                        ["finish_reason"] = update.Finish is { } finish ? CompletionsEndpoint.ReasonOf(finish) : null,
                    };
                    await events.SendAsync(envelope(Kind, [choice])).ConfigureAwait(false);
                }
            })).ConfigureAwait(false);
            if (usage)
            {
                JsonObject last = envelope(Kind, []);
                last["usage"] = CompletionsEndpoint.Usage(scope.PromptTokens, scope.GeneratedTokens);
                await events.SendAsync(last).ConfigureAwait(false);
            }
        }).ConfigureAwait(false);
    }

    private JsonObject ScoreOf(TokenScore score)
    {
        JsonObject One(int token, double? log)
        {
            byte[] bytes = model.Tokenizer!.TokenBytes(token).ToArray();
            return new JsonObject { ["token"] = TokenNames.Of(model.Tokenizer, token), ["logprob"] = log, ["bytes"] = new JsonArray([.. bytes.Select(b => (JsonNode)(int)b)]) };
        }

        JsonObject own = One(score.Token, score.LogProbability);
        own["top_logprobs"] = new JsonArray([.. score.Top.Select(t => (JsonNode)One(t.Token, t.LogProbability))]);
        return own;
    }
}
