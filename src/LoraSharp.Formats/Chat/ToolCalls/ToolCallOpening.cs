using System.Text.Json;

namespace LoraSharp.Formats.Chat.ToolCalls;

/// <summary>The beginning of a call: put behind the prompt, it makes the model call a function rather than talk.</summary>
public static class ToolCallOpening
{
    /// <summary>The beginning in a model's format.</summary>
    /// <param name="format">How the model writes calls; <see cref="ToolCallFormat.None"/> is taken for <see cref="ToolCallFormat.Hermes"/>.</param>
    /// <param name="template">The model's chat template: newer Mistral ones write the name before the arguments.</param>
    /// <param name="name">The function; null for any.</param>
    public static string For(ToolCallFormat format, string template, string? name)
    {
        ArgumentNullException.ThrowIfNull(template);
        string quoted = JsonSerializer.Serialize(name ?? "");

        // No blank at the end: tokenizers put it to the word that follows.
        return format switch
        {
            ToolCallFormat.QwenXml => name is null ? "<tool_call>\n<function=" : $"<tool_call>\n<function={name}>\n",
            ToolCallFormat.Llama => name is null ? "{\"name\": \"" : $$"""{"name": {{quoted}}, "parameters":""",
            ToolCallFormat.Mistral when template.Contains("[ARGS]", StringComparison.Ordinal) => name is null ? "[TOOL_CALLS]" : $"[TOOL_CALLS]{name}[ARGS]",
            ToolCallFormat.Mistral => name is null ? "[TOOL_CALLS][{\"name\": \"" : $$"""[TOOL_CALLS][{"name": {{quoted}}, "arguments":""",
            _ => name is null ? "<tool_call>\n{\"name\": \"" : $"<tool_call>\n{{\"name\": {quoted}, \"arguments\":",
        };
    }
}
