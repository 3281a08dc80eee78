namespace LoraSharp.Formats.Chat.ToolCalls;

/// <summary>A function that the model wants called.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Arguments">Its arguments as the text of a JSON object, as the model wrote them.</param>
/// <param name="Id">The call's id, where the model gives one (Mistral); null otherwise.</param>
public sealed record ToolCall(string Name, string Arguments, string? Id = null);

/// <summary>What an assistant said, taken apart.</summary>
/// <param name="Content">The text around the calls, without blanks at its ends; empty when there is none.</param>
/// <param name="Calls">The calls in order. What looks like a call and is not well-formed stays in the content.</param>
public sealed record AssistantText(string Content, IReadOnlyList<ToolCall> Calls);

/// <summary>How a model writes its tool calls.</summary>
public enum ToolCallFormat
{
    /// <summary>It has no format of its own that is known here: nothing is taken for a call.</summary>
    None,

    /// <summary><c>&lt;tool_call&gt;{"name": ..., "arguments": {...}}&lt;/tool_call&gt;</c>: Hermes, Qwen 2.5 and 3, SmolLM3, Granite 4.</summary>
    Hermes,

    /// <summary><c>&lt;tool_call&gt;&lt;function=name&gt;&lt;parameter=key&gt;value&lt;/parameter&gt;&lt;/function&gt;&lt;/tool_call&gt;</c>: Qwen3-Coder and later.</summary>
    QwenXml,

    /// <summary><c>{"name": ..., "parameters": {...}}</c>, after <c>&lt;|python_tag|&gt;</c> or alone: Llama 3.1 and later.</summary>
    Llama,

    /// <summary><c>[TOOL_CALLS]</c> with a JSON list, or with name and arguments one after another: Mistral.</summary>
    Mistral,
}
