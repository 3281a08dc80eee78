using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Inference;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary><c>POST /v1/completions</c>: prompts as text or token ids, one or several.</summary>
internal sealed class CompletionsEndpoint(ServedModel model)
{
    private const int MostPrompts = 256;
    private const int MostChoices = 128;
    private const int DefaultTokens = 16;

    public async Task HandleAsync(HttpContext context)
    {
        RequestBody body = await RequestBody.ReadAsync(context).ConfigureAwait(false);
        var scope = RequestScope.Of(context);
        string? adapter = scope.Choose(body.Text("model"));
        bool echo = body.Flag("echo");

        // No new tokens are asked for by those who want a prompt's own log-probabilities. One is computed and not shown.
        GenerationOptions generation = ResponseForm.Apply(SamplingFields.Read(body, DefaultTokens, echo ? 0 : 1, model.Defaults), body, model);
        var shape = new CompletionShape(body.Whole("logprobs", 0, 20), body.Flag("return_tokens_as_token_ids") || model.Tokenizer is null, echo, PromptOnly: generation.MaxTokens == 0);
        generation = generation with { MaxTokens = Math.Max(1, generation.MaxTokens) };
        int n = body.Whole("n", 1, MostChoices) ?? 1;
        bool stream = body.Flag("stream");
        bool usage = SamplingFields.WantsUsage(body);
        List<int[]> prompts = Prompts(body);
        scope.Admit(prompts);
        InferenceRequest[] requests = [.. prompts.SelectMany(p => Enumerable.Range(0, n).Select(i => new InferenceRequest
        {
            Prompt = p,
            Adapter = adapter,
            Options = generation with { Sampling = generation.Sampling with { Seed = unchecked(generation.Sampling.Seed + i) } },
            LogProbabilities = shape.LogProbabilities,
            PromptLogProbabilities = echo && shape.LogProbabilities is not null,
        }))];
        JsonObject Envelope(JsonArray choices) => new()
        {
            ["id"] = "cmpl-" + scope.Id,
            ["object"] = "text_completion",
            ["created"] = scope.Created,
            ["model"] = scope.Model,
            ["choices"] = choices,
        };
        if (stream)
        {
            await StreamAsync(context, requests, shape, Envelope, usage ? () => Usage(scope.PromptTokens, scope.GeneratedTokens) : null).ConfigureAwait(false);
            return;
        }

        CompletionChoice[] done = await scope.SideBySideAsync(requests, (r, _, cancellation) => CollectAsync(scope, r, shape, cancellation), context.RequestAborted).ConfigureAwait(false);
        JsonObject answer = Envelope([.. done.Select((c, i) => (JsonNode)c.ToJson(i))]);
        answer["usage"] = Usage(scope.PromptTokens, done.Sum(c => c.Tokens));
        await JsonBody.WriteAsync(context, answer).ConfigureAwait(false);
    }

    internal static JsonObject Usage(int prompt, int completion) => new() { ["prompt_tokens"] = prompt, ["completion_tokens"] = completion, ["total_tokens"] = prompt + completion };

    internal static string ReasonOf(FinishReason reason) => reason == FinishReason.Length ? "length" : "stop";

    private async Task StreamAsync(HttpContext context, InferenceRequest[] requests, CompletionShape shape, Func<JsonArray, JsonObject> envelope, Func<JsonObject>? usage)
    {
        using var events = new EventStream(context);
        var scope = RequestScope.Of(context);
        await events.RunAsync(async () =>
        {
            await scope.SideBySideAsync(requests, async (request, index, cancellation) =>
            {
                var choice = new CompletionChoice(model, shape, request);
                await foreach (TokenUpdate update in scope.GenerateAsync(request, cancellation).ConfigureAwait(false))
                {
                    choice.Add(update);
                    JsonObject chunk = envelope([choice.ToJson(index)]);
                    if (usage is not null)
                    {
                        chunk["usage"] = null;
                    }

                    await events.SendAsync(chunk).ConfigureAwait(false);
                    choice = choice.Next();
                }

                return choice;
            }, context.RequestAborted).ConfigureAwait(false);
            if (usage is not null)
            {
                JsonObject last = envelope([]);
                last["usage"] = usage();
                await events.SendAsync(last).ConfigureAwait(false);
            }
        }).ConfigureAwait(false);
    }

    private async Task<CompletionChoice> CollectAsync(RequestScope scope, InferenceRequest request, CompletionShape shape, CancellationToken cancellation)
    {
        var choice = new CompletionChoice(model, shape, request);
        await foreach (TokenUpdate update in scope.GenerateAsync(request, cancellation).ConfigureAwait(false))
        {
            choice.Add(update);
        }

        return choice;
    }

    private List<int[]> Prompts(RequestBody body)
    {
        JsonElement prompt = body.Value("prompt") ?? throw ApiError.Invalid("prompt", "prompt is missing.");
        return prompt.ValueKind != JsonValueKind.Array ? [One(prompt)]
            : prompt.GetArrayLength() == 0 ? throw ApiError.Invalid("prompt", $"prompt: expected 1 to {MostPrompts} entries.")
            : prompt[0].ValueKind == JsonValueKind.Number ? [Ids(prompt)]
            : [.. RequestBody.Counted("prompt", prompt, MostPrompts).Select(One)];
    }

    private int[] One(JsonElement prompt) => prompt.ValueKind switch
    {
        JsonValueKind.Array => Ids(prompt),
        JsonValueKind.String => model.Tokenizer?.Encode(prompt.GetString()!) ?? throw ApiError.Invalid("prompt", "The model has no tokenizer: give token ids."),
        _ => throw RequestBody.Wrong("prompt", "text or token ids", prompt),
    };

    private static int[] Ids(JsonElement ids) => ids.GetArrayLength() == 0
        ? throw ApiError.Invalid("prompt", "prompt: a list of token ids is empty.")
        : [.. ids.EnumerateArray().Select(n => n.ValueKind == JsonValueKind.Number && n.TryGetInt32(out int id) ? id : throw RequestBody.Wrong("prompt", "token ids", n))];
}
