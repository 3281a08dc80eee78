using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat.ToolCalls;
using LoraSharp.Inference;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary><c>POST /v1/chat/completions</c>: the model's chat template renders the messages.</summary>
internal sealed class ChatEndpoint(ServedModel model, ServerOptions options)
{
    private const int MostChoices = 128;
    private const int MostTop = 20;

    public async Task HandleAsync(HttpContext context)
    {
        RequestBody body = await RequestBody.ReadAsync(context).ConfigureAwait(false);
        var scope = RequestScope.Of(context);
        string? adapter = scope.Choose(body.Text("model"));
        if (model.Tokenizer is null || model.Template is null)
        {
            throw new ApiError(StatusCodes.Status400BadRequest, "The model has no tokenizer or no chat template: use /v1/completions.", null, "no_chat_template");
        }

        var plan = ToolPlan.Read(body, model.Template);
        int[] prompt = Render(body, plan);
        int n = body.Whole("n", 1, MostChoices) ?? 1;
        int? top = body.Flag("logprobs") ? body.Whole("top_logprobs", 0, MostTop) ?? 0 : null;
        if (body.Has("top_logprobs") && top is null)
        {
            throw ApiError.Invalid("top_logprobs", "top_logprobs is given without logprobs: true.");
        }

        GenerationOptions generation = plan.Constrain(ResponseForm.Apply(SamplingFields.Read(body, options.DefaultMaxTokens, 1, model.Defaults), body, model), model);
        generation = generation with { SkipSpecialTokens = generation.SkipSpecialTokens && !plan.NeedsSpecialTokens, StopStrings = [.. generation.StopStrings, .. plan.Stops] };
        bool stream = body.Flag("stream");
        bool usage = SamplingFields.WantsUsage(body);
        scope.Admit([prompt]);
        InferenceRequest[] requests = [.. Enumerable.Range(0, n).Select(i => new InferenceRequest
        {
            Prompt = prompt,
            Adapter = adapter,
            Options = generation with { Sampling = generation.Sampling with { Seed = unchecked(generation.Sampling.Seed + i) } },
            LogProbabilities = top,
        })];
        if (stream)
        {
            await StreamAsync(context, scope, requests, plan, usage).ConfigureAwait(false);
            return;
        }

        ChatChoice[] done = await scope.SideBySideAsync(requests, (r, _, cancellation) => CollectAsync(scope, r, plan, cancellation), context.RequestAborted).ConfigureAwait(false);
        JsonObject answer = Envelope(scope, "chat.completion", [.. done.Select((d, i) => (JsonNode)d.ToJson(i))]);
        answer["usage"] = CompletionsEndpoint.Usage(prompt.Length, done.Sum(d => d.Tokens));
        await JsonBody.WriteAsync(context, answer).ConfigureAwait(false);
    }

    private int[] Render(RequestBody body, ToolPlan plan)
    {
        JsonArray messages = ChatMessages.Read(body);
        JsonObject variables = body.Object("chat_template_kwargs") ?? [];
        if (plan.ByPreamble)
        {
            messages = ToolPreamble.Apply(messages, plan.Tools);
        }
        else if (plan.Tools is not null)
        {
            variables["tools"] = plan.Tools.DeepClone();
        }

        // The template writes the special tokens itself.
        return model.Tokenizer!.Encode(model.Template!.Render(messages, addGenerationPrompt: true, variables).Text + plan.Opening, addSpecialTokens: false);
    }

    private async Task<ChatChoice> CollectAsync(RequestScope scope, InferenceRequest request, ToolPlan plan, CancellationToken cancellation)
    {
        var choice = new ChatChoice(model.Tokenizer!, plan, request.LogProbabilities is not null);
        await foreach (TokenUpdate update in scope.GenerateAsync(request, cancellation).ConfigureAwait(false))
        {
            choice.Add(update);
        }

        return choice;
    }

    private async Task StreamAsync(HttpContext context, RequestScope scope, InferenceRequest[] requests, ToolPlan plan, bool usage)
    {
        const string Kind = "chat.completion.chunk";
        using var events = new EventStream(context);
        await events.RunAsync(async () =>
        {
            await scope.SideBySideAsync(requests, async (request, index, cancellation) =>
            {
                var choice = new ChatChoice(model.Tokenizer!, plan, request.LogProbabilities is not null);
                await foreach (TokenUpdate update in scope.GenerateAsync(request, cancellation).ConfigureAwait(false))
                {
                    if (choice.Next(update, index) is { } piece)
                    {
                        JsonObject chunk = Envelope(scope, Kind, [piece]);
                        if (usage)
                        {
                            chunk["usage"] = null;
                        }

                        await events.SendAsync(chunk).ConfigureAwait(false);
                    }
                }

                return choice;
            }, context.RequestAborted).ConfigureAwait(false);
            if (usage)
            {
                JsonObject last = Envelope(scope, Kind, []);
                last["usage"] = CompletionsEndpoint.Usage(scope.PromptTokens, scope.GeneratedTokens);
                await events.SendAsync(last).ConfigureAwait(false);
            }
        }).ConfigureAwait(false);
    }

    private static JsonObject Envelope(RequestScope scope, string kind, JsonArray choices) => new()
    {
        ["id"] = "chatcmpl-" + scope.Id,
        ["object"] = kind,
        ["created"] = scope.Created,
        ["model"] = scope.Model,
        ["choices"] = choices,
    };
}
