using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Chat.ToolCalls;
using LoraSharp.Inference;
using LoraSharp.Inference.Constraints;
using Microsoft.Extensions.AI;

namespace LoraSharp.Extensions.AI;

/// <summary>A chat request as the engine takes it.</summary>
/// <param name="Prompt">Token ids of the rendered messages.</param>
/// <param name="Options">Length, ends, sampling, the form of the answer.</param>
/// <param name="Tools">Functions that may be called; null for none.</param>
/// <param name="Format">How the model writes calls.</param>
/// <param name="Opening">What of the answer stands in the prompt already.</param>
internal sealed record ChatPlan(int[] Prompt, GenerationOptions Options, JsonArray? Tools, ToolCallFormat Format, string Opening)
{
    public static ChatPlan Of(IEnumerable<ChatMessage> messages, ChatOptions? options, LocalModel model)
    {
        ChatTemplate template = model.Template;
        JsonArray list = ChatMessageJson.Of(messages, options?.Instructions);
        JsonArray? tools = options?.ToolMode is NoneChatToolMode ? null : ChatMessageJson.Of(options?.Tools);
        ToolCallFormat format = ToolCallFormat.None;
        string opening = "";
        TokenConstraint? constraint = Form(options?.ResponseFormat, model);
        if (tools is not null)
        {
            format = template.KnowsTools ? ToolCallParser.Detect(template.ToolSource) : ToolCallFormat.Hermes;
            format = format == ToolCallFormat.None ? ToolCallFormat.Hermes : format;
            ToolForm[] forms = [.. tools.Select(t => ToolForm.Of(t!))];
            if (options!.ToolMode is RequiredChatToolMode required)
            {
                string? name = required.RequiredFunctionName ?? (forms.Length == 1 ? forms[0].Name : null);
                opening = ToolCallOpening.For(format, template.ToolSource, name);
                constraint = model.Constraints.ToolCall(forms, format, template.ToolSource, opening);
            }
            else if (options.ResponseFormat is ChatResponseFormatJson json)
            {
                // Either a call or the answer in its form.
                constraint = model.Constraints.ToolCallOr(forms, format, template.ToolSource, Schema(json));
            }
        }

        return new ChatPlan(Render(list, tools, template, model, opening), Generation(options, model, constraint, format), tools, format, opening);
    }

    private static int[] Render(JsonArray messages, JsonArray? tools, ChatTemplate template, LocalModel model, string opening)
    {
        var variables = new JsonObject();
        if (!template.KnowsTools)
        {
            messages = ToolPreamble.Apply(messages, tools);
        }
        else if (tools is not null)
        {
            variables["tools"] = tools.DeepClone();
        }

        // The template writes the special tokens itself.
        return model.Tokenizer.Encode(template.Render(messages, addGenerationPrompt: true, variables).Text + opening, addSpecialTokens: false);
    }

    private static GenerationOptions Generation(ChatOptions? options, LocalModel model, TokenConstraint? constraint, ToolCallFormat format)
    {
        SamplingOptions own = model.Generation.Sampling;
        return new GenerationOptions
        {
            MaxTokens = options?.MaxOutputTokens ?? model.DefaultMaxTokens,
            EosTokenIds = model.Generation.EosTokenIds,
            StopStrings = [.. options?.StopSequences ?? []],

            // The marks of a call are special tokens in these forms.
            SkipSpecialTokens = format is not (ToolCallFormat.Llama or ToolCallFormat.Mistral),
            Sampling = own with
            {
                Temperature = options?.Temperature ?? own.Temperature,
                TopK = options?.TopK ?? own.TopK,
                TopP = options?.TopP ?? own.TopP,
                FrequencyPenalty = options?.FrequencyPenalty ?? own.FrequencyPenalty,
                PresencePenalty = options?.PresencePenalty ?? own.PresencePenalty,
                Seed = options?.Seed ?? Random.Shared.NextInt64(),
                Constraint = constraint,
            },
        }.Validate();
    }

    private static TokenConstraint? Form(ChatResponseFormat? format, LocalModel model) => format is ChatResponseFormatJson json ? model.Constraints.Json(Schema(json)) : null;

    private static JsonNode Schema(ChatResponseFormatJson json) => json.Schema is { } schema
        ? JsonNode.Parse(schema.GetRawText()) ?? throw new LoraSharpException("The response format's JSON schema is null.")
        : new JsonObject { ["type"] = "object" };
}
