namespace LoraSharp.Formats.Chat;

/// <summary>A conversation as the model reads it.</summary>
/// <param name="Text">The text; special tokens are in it as they are written, so tokenize it without adding any.</param>
/// <param name="AssistantSpans">
/// Where in the text, as [start, end) in UTF-16 code units, <c>{% generation %}</c> blocks rendered what the assistant says:
/// the tokens a loss is taken over. Empty when the template has no such blocks (<see cref="ChatTemplate.MarksAssistant"/>).
/// </param>
public sealed record RenderedChat(string Text, IReadOnlyList<(int Start, int End)> AssistantSpans);
