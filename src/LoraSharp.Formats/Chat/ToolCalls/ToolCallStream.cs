using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Chat.ToolCalls;

/// <summary>
/// Finds tool calls in text as it is generated: gives out what is certain to be content at once, and a call when it is whole.
/// All pieces together are what <see cref="ToolCallParser"/> says of the whole text, but for blanks beside calls.
/// </summary>
/// <param name="format">How the model writes calls.</param>
/// <param name="tools">The tools offered, as in a chat request; may be null.</param>
public sealed class ToolCallStream(ToolCallFormat format, JsonArray? tools = null)
{
    private const string HermesClose = "</tool_call>";

    private readonly ToolCallParser _parser = new(format, tools);
    private readonly string[] _openings = format switch
    {
        ToolCallFormat.Hermes or ToolCallFormat.QwenXml => ["<tool_call>"],
        ToolCallFormat.Mistral => ["[TOOL_CALLS]"],
        ToolCallFormat.Llama => ["<|python_tag|>"],
        _ => [],
    };

    private string _held = "";
    private bool _begun;
    private bool _called;

    /// <summary>Takes more text.</summary>
    public AssistantText Add(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        _held += text;
        var calls = new List<ToolCall>();
        string content = "";
        while (Next(calls) is { } piece)
        {
            content += piece;
        }

        return new AssistantText(content, calls);
    }

    /// <summary>Nothing more comes: what was held back.</summary>
    public AssistantText End()
    {
        AssistantText rest = _parser.Parse(_held);
        _held = "";
        return _called && string.IsNullOrWhiteSpace(rest.Content) ? rest with { Content = "" } : rest;
    }

    // The next piece of content that is certain, with the calls that were found on the way; null when more text is needed.
    private string? Next(List<ToolCall> calls)
    {
        // Llama writes a call as an object and nothing else.
        if (_held.Length == 0 || (format == ToolCallFormat.Llama && !_begun && _held.TrimStart() is "" or ['{', ..]))
        {
            return null;
        }

        int open = _openings.Select(o => _held.IndexOf(o, StringComparison.Ordinal)).Where(i => i >= 0).DefaultIfEmpty(-1).Min();
        if (open < 0)
        {
            return Give(_held.Length - Doubtful());
        }

        if (_held[..open].Length > 0)
        {
            // Blanks before a call belong to neither.
            string before = Give(open)!;
            return string.IsNullOrWhiteSpace(before) ? "" : before.TrimEnd();
        }

        // Other formats have no mark at the end: their calls are the last of a text.
        return format is ToolCallFormat.Hermes or ToolCallFormat.QwenXml ? TakeTagged(calls) : null;
    }

    private string? TakeTagged(List<ToolCall> calls)
    {
        // An argument may have the closing mark in it: then the next one closes.
        for (int close = _held.IndexOf(HermesClose, StringComparison.Ordinal); close >= 0; close = _held.IndexOf(HermesClose, close + 1, StringComparison.Ordinal))
        {
            int end = close + HermesClose.Length;
            AssistantText said = _parser.Parse(_held[..end]);
            if (said.Calls.Count > 0 && said.Content.Length == 0)
            {
                calls.AddRange(said.Calls);
                _held = _held[end..];
                _begun = true;
                _called = true;
                return "";
            }
        }

        return null;
    }

    private string? Give(int length)
    {
        if (length <= 0)
        {
            return null;
        }

        string piece = _held[..length];
        _held = _held[length..];
        _begun |= !string.IsNullOrWhiteSpace(piece);
        return piece;
    }

    // How much of the end may be the beginning of a call, or blanks before one.
    private int Doubtful()
    {
        int blanks = _held.Length - _held.TrimEnd().Length;
        for (int length = Math.Min(_held.Length, _openings.Length == 0 ? 0 : _openings.Max(o => o.Length) - 1); length > blanks; length--)
        {
            string end = _held[^length..];
            if (_openings.Any(o => o.StartsWith(end, StringComparison.Ordinal)))
            {
                return length + (_held.Length - length - _held[..^length].TrimEnd().Length);
            }
        }

        return _openings.Length == 0 ? 0 : blanks;
    }
}
