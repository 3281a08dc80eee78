using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Datasets;

/// <summary>What a row says once its columns are understood; not yet tokens.</summary>
public abstract record RowContent;

/// <summary>Running text.</summary>
/// <param name="Text">The text.</param>
public sealed record TextContent(string Text) : RowContent;

/// <summary>A prompt and what should follow it.</summary>
/// <param name="Prompt">The prompt as the model is to see it.</param>
/// <param name="Completion">What the model should write; with several references the first of them.</param>
/// <param name="References">All accepted answers where the row lists them (for evaluation).</param>
public sealed record PromptContent(string Prompt, string Completion, IReadOnlyList<string>? References = null) : RowContent;

/// <summary>An instruction in the columns of Alpaca (Taori et al. 2023).</summary>
/// <param name="Instruction">What to do.</param>
/// <param name="Input">On what; empty for nothing.</param>
/// <param name="Output">The answer.</param>
/// <param name="System">System prompt, if the row has one.</param>
/// <param name="History">Earlier instructions and answers.</param>
public sealed record AlpacaContent(string Instruction, string Input, string Output, string? System, IReadOnlyList<(string Instruction, string Output)> History) : RowContent;

/// <summary>A conversation.</summary>
/// <param name="Messages">Messages with <c>role</c> and <c>content</c> (and <c>tool_calls</c> etc.), as chat templates take them.</param>
/// <param name="Weights">For each message its weight in the loss where the row says one (<c>weight</c>, <c>train</c>); null for the rule of the run.</param>
/// <param name="PromptMessages">How many of the messages are the prompt, never trained; 0 when the row does not say.</param>
/// <param name="Variables">Template variables of the row, such as <c>tools</c>.</param>
public sealed record ChatContent(JsonArray Messages, IReadOnlyList<float?> Weights, int PromptMessages, JsonObject Variables) : RowContent;

/// <summary>Two answers to one prompt.</summary>
/// <param name="Chosen">The better one.</param>
/// <param name="Rejected">The worse one; of the same kind as <paramref name="Chosen"/>.</param>
public sealed record PreferenceContent(RowContent Chosen, RowContent Rejected) : RowContent;

/// <summary>An answer and whether it is a good one.</summary>
/// <param name="Answer">Prompt with answer.</param>
/// <param name="Desirable">Thumbs up.</param>
public sealed record KtoContent(RowContent Answer, bool Desirable) : RowContent;

/// <summary>Token ids.</summary>
/// <param name="InputIds">Ids.</param>
/// <param name="Labels">Labels of the same length (-100: not trained); null for the ids themselves.</param>
/// <param name="AttentionMask">False for padding; null for none.</param>
public sealed record TokenizedContent(int[] InputIds, int[]? Labels, bool[]? AttentionMask) : RowContent;
