using System.Runtime.CompilerServices;
using System.Text.Json;
using LoraSharp.Formats.Chat.ToolCalls;
using LoraSharp.Inference;
using LoraSharp.Serving;
using Microsoft.Extensions.AI;

namespace LoraSharp.Extensions.AI;

/// <summary>
/// Chats with a model in this process. <see cref="ChatOptions.ModelId"/> names the adapter; without one the base answers.
/// Functions are offered and called in the model's own format; a required call, and an answer with a response format, are
/// held to their schema by token masks. Safe for concurrent use: requests share one batch.
/// </summary>
/// <param name="model">Stays the caller's.</param>
public sealed class EngineChatClient(LocalModel model) : IChatClient
{
    private readonly ChatClientMetadata _metadata = new("lorasharp", defaultModelId: model.Name);

    /// <inheritdoc/>
    /// <exception cref="UnknownAdapterException">There is no adapter of this name.</exception>
    /// <exception cref="EngineBusyException">Too many requests wait.</exception>
    /// <exception cref="Formats.LoraSharpException">The request makes no sense, or does not fit the context.</exception>
    public Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default) =>
        GetStreamingResponseAsync(messages, options, cancellationToken).ToChatResponseAsync(cancellationToken);

    /// <inheritdoc/>
    /// <exception cref="UnknownAdapterException">There is no adapter of this name.</exception>
    /// <exception cref="EngineBusyException">Too many requests wait.</exception>
    /// <exception cref="Formats.LoraSharpException">The request makes no sense, or does not fit the context.</exception>
    public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var plan = ChatPlan.Of(messages, options, model);
        var request = new InferenceRequest { Prompt = plan.Prompt, Adapter = model.AdapterOf(options?.ModelId), Options = plan.Options };
        ToolCallStream? calls = plan.Tools is null ? null : new ToolCallStream(plan.Format, plan.Tools);
        _ = calls?.Add(plan.Opening);
        string id = Guid.NewGuid().ToString("N");
        DateTimeOffset created = DateTimeOffset.UtcNow;
        int tokens = 0;
        bool called = false;
        await foreach (TokenUpdate update in model.Engine.GenerateAsync(request, cancellationToken).ConfigureAwait(false))
        {
            tokens += update.Token is null ? 0 : 1;
            List<AIContent> contents = [.. Contents(calls?.Add(update.Text) ?? new AssistantText(update.Text, []))];
            if (update.Finish is not null)
            {
                contents.AddRange(Contents(calls?.End() ?? new AssistantText("", [])));
            }

            called |= contents.Exists(c => c is FunctionCallContent);
            if (update.Finish is not null)
            {
                contents.Add(new UsageContent(new UsageDetails { InputTokenCount = plan.Prompt.Length, OutputTokenCount = tokens, TotalTokenCount = plan.Prompt.Length + tokens }));
            }

            if (contents.Count > 0)
            {
                yield return new ChatResponseUpdate(ChatRole.Assistant, contents)
                {
                    ResponseId = id,
                    MessageId = id,
                    CreatedAt = created,
                    ModelId = options?.ModelId ?? model.Name,
                    FinishReason = update.Finish is not { } finish ? null : finish == FinishReason.Length ? ChatFinishReason.Length : called ? ChatFinishReason.ToolCalls : ChatFinishReason.Stop,
                };
            }
        }
    }

    /// <inheritdoc/>
    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is not null ? null
            : serviceType == typeof(ChatClientMetadata) ? _metadata
            : serviceType == typeof(LocalModel) ? model
            : serviceType == typeof(InferenceEngine) ? model.Engine
            : serviceType.IsInstanceOfType(this) ? this : null;
    }

    /// <summary>Does nothing: the model is not its own.</summary>
    public void Dispose()
    {
    }

    private static IEnumerable<AIContent> Contents(AssistantText said)
    {
        if (said.Content.Length > 0)
        {
            yield return new TextContent(said.Content);
        }

        foreach (ToolCall call in said.Calls)
        {
            yield return FunctionCallContent.CreateFromParsedArguments(
                call.Arguments,
                call.Id ?? "call_" + Guid.NewGuid().ToString("N")[..24],
                call.Name,
                static json => JsonSerializer.Deserialize<Dictionary<string, object?>>(json, AIJsonUtilities.DefaultOptions));
        }
    }
}
