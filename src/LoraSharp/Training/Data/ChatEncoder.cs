using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Training.Data;

/// <summary>
/// Renders messages as the model's chat template does. Returns the text and, where the template marks them with
/// <c>{% generation %}</c>, the stretches [start, end) in UTF-16 code units that the assistant says.
/// </summary>
/// <param name="messages">Objects with role and content.</param>
/// <param name="addGenerationPrompt">Whether the text ends where the assistant would begin.</param>
/// <param name="variables">Further template variables such as <c>tools</c>.</param>
public delegate (string Text, IReadOnlyList<(int Start, int End)> AssistantSpans) ChatRenderer(JsonArray messages, bool addGenerationPrompt, JsonObject? variables);

/// <summary>
/// Conversations to tokens. What the assistant says is found by the template's own marks or, where it has none, by rendering
/// the conversation up to before and up to after each message: the difference is the message.
/// </summary>
internal sealed class ChatEncoder(Tokenizer tokenizer, ChatRenderer render, TrainOn trainOn)
{
    /// <summary>Tokens and labels; null, and why, when there is nothing to train on.</summary>
    public TrainingExample? Encode(DatasetRow row, ChatContent chat, ref List<string>? notes, out string? dropped)
    {
        float[] wanted = Wanted(chat);
        dropped = NothingSaid(chat, wanted, ref notes);
        if (dropped is not null)
        {
            return null;
        }

        JsonArray messages = WithToolCallsSaid(row, chat, ref notes, out string text, out IReadOnlyList<(int Start, int End)> marks);
        TokenizedText tokens = tokenizer.EncodeWithOffsets(text, addSpecialTokens: false);
        float[] weights = new float[tokens.Ids.Length];
        if (trainOn == TrainOn.All)
        {
            Array.Fill(weights, 1);
        }

        int[] assistants = [.. Enumerable.Range(0, messages.Count).Where(i => Role(messages[i]) == "assistant")];
        bool marked = marks.Count == assistants.Length && marks.Count > 0;
        for (int i = 0; i < messages.Count; i++)
        {
            // Under All only what a message forbids or weights has to be found.
            if (trainOn == TrainOn.All ? wanted[i] == 1 : wanted[i] == 0)
            {
                continue;
            }

            int mark = Array.IndexOf(assistants, i);
            if (marked && mark >= 0)
            {
                Set(tokens, weights, marks[mark], wanted[i]);
            }
            else
            {
                (int start, int end) = new TurnFinder(row, messages, chat.Variables, render, text).Find(i);
                Set(tokens, weights, WithoutWhiteSpaceAfterEnd(tokens, text, (start, end)), wanted[i]);
            }
        }

        int[] labels = new int[weights.Length];
        bool weighted = false;
        bool trained = false;
        for (int t = 0; t < labels.Length; t++)
        {
            labels[t] = weights[t] > 0 ? tokens.Ids[t] : TrainingExample.Ignored;
            trained |= weights[t] > 0;
            weighted |= weights[t] is not (0 or 1);
        }

        dropped = trained ? null : "no message is trained on";
        return trained ? new TrainingExample { InputIds = tokens.Ids, Labels = labels, Weights = weighted ? weights : null, Origin = row.Origin.ToString() } : null;
    }

    /// <summary>Tokens up to where the last assistant message begins, and what that message says.</summary>
    public int[] EncodePrompt(DatasetRow row, ChatContent chat, out string answer)
    {
        int last = chat.Messages.Count - 1;
        while (last >= 0 && Role(chat.Messages[last]) != "assistant")
        {
            last--;
        }

        answer = last >= 0 && chat.Messages[last]!["content"] is JsonValue value && value.TryGetValue(out string? content) ? content : "";
        var before = new JsonArray([.. chat.Messages.Take(last >= 0 ? last : chat.Messages.Count).Select(m => m?.DeepClone())]);
        return tokenizer.Encode(TurnFinder.Render(row, render, before, true, chat.Variables).Text, addSpecialTokens: false);
    }

    // An empty answer teaches to say nothing: of one among others the user is told, of a row with no other there is nothing to learn.
    private string? NothingSaid(ChatContent chat, float[] wanted, ref List<string>? notes)
    {
        foreach (string role in chat.Messages.Select(Role).OfType<string>().Where(r => !MessageRoles.Known.Contains(r)).Distinct())
        {
            (notes ??= []).Add($"the role '{role}' is none of those that chat templates know ({string.Join(", ", MessageRoles.Known)}); its messages are rendered but not trained on");
        }

        int[] answers = [.. Enumerable.Range(0, wanted.Length).Where(i => wanted[i] > 0 && Role(chat.Messages[i]) == "assistant")];
        int empty = answers.Count(i => SaysNothing(chat.Messages[i]!));
        if (empty > 0 && empty == answers.Length && trainOn != TrainOn.All)
        {
            return "the assistant's message is empty";
        }

        if (empty > 0)
        {
            (notes ??= []).Add("a message of the assistant is empty, so the model learns to say nothing there");
        }

        return null;
    }

    // Calls of tools and thoughts are said too.
    private static bool SaysNothing(JsonNode message) => message.AsObject().Where(p => p.Key is not ("role" or "name"))
        .All(p => p.Value is null or JsonArray { Count: 0 } || (p.Value is JsonValue value && value.TryGetValue(out string? text) && string.IsNullOrWhiteSpace(text)));

    private float[] Wanted(ChatContent chat)
    {
        float[] wanted = new float[chat.Messages.Count];
        int last = -1;
        for (int i = 0; i < wanted.Length; i++)
        {
            bool answers = Role(chat.Messages[i]) == "assistant" && i >= chat.PromptMessages;
            last = answers ? i : last;
            wanted[i] = chat.Weights[i] ?? (trainOn == TrainOn.All || (answers && trainOn == TrainOn.Assistant) ? 1 : 0);
        }

        if (trainOn == TrainOn.Completions && last >= 0)
        {
            // Of a row that says where its prompt ends every answer after it is the completion.
            for (int i = chat.PromptMessages > 0 ? chat.PromptMessages : last; i < wanted.Length; i++)
            {
                wanted[i] = chat.Weights[i] ?? (Role(chat.Messages[i]) == "assistant" ? 1 : 0);
            }
        }

        return wanted;
    }

    // Many templates know nothing of tool_calls and would drop them without a word: then the call is said as text.
    private JsonArray WithToolCallsSaid(DatasetRow row, ChatContent chat, ref List<string>? notes, out string text, out IReadOnlyList<(int Start, int End)> marks)
    {
        (text, marks) = TurnFinder.Render(row, render, chat.Messages, false, chat.Variables);
        bool silent = false;
        foreach (JsonNode? message in chat.Messages)
        {
            silent |= (message!["tool_calls"] as JsonArray)?.Any(c => c?["function"]?["name"] is JsonValue name && name.TryGetValue(out string? called)) == true
                && !RendersToolCalls(row, chat, message, text);
        }

        if (chat.Variables["tools"] is JsonArray { Count: > 0 } tools && tools.Any(t => t?["function"]?["name"] is JsonValue v && v.TryGetValue(out string? name) && !string.IsNullOrEmpty(name)))
        {
            JsonObject without = (JsonObject)chat.Variables.DeepClone();
            without.Remove("tools");
            if (TurnFinder.Render(row, render, chat.Messages, false, without).Text == text)
            {
                (notes ??= []).Add("the chat template does not show the row's tools to the model");
            }
        }

        if (!silent)
        {
            return chat.Messages;
        }

        (notes ??= []).Add("the chat template does not know tool calls: they are written into the assistant's text as JSON");
        var said = new JsonArray();
        foreach (JsonNode? message in chat.Messages)
        {
            var copy = (JsonObject)message!.DeepClone();
            if (copy["tool_calls"] is JsonArray calls)
            {
                string content = copy["content"] is JsonValue value && value.TryGetValue(out string? before) ? before : "";
                string json = string.Join("\n", calls.Select(c => (c?["function"] ?? c)?.ToJsonString(Relaxed)));
                copy["content"] = content.Length > 0 ? $"{content}\n{json}" : json;
                copy.Remove("tool_calls");
            }

            said.Add(copy);
        }

        (text, marks) = TurnFinder.Render(row, render, said, false, chat.Variables);
        return said;
    }

    private static readonly System.Text.Json.JsonSerializerOptions Relaxed = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    // Whether taking the message's calls away changes the text; a template that then refuses does know them.
    private bool RendersToolCalls(DatasetRow row, ChatContent chat, JsonNode message, string text)
    {
        var without = (JsonArray)chat.Messages.DeepClone();
        ((JsonObject)without[chat.Messages.IndexOf(message)]!).Remove("tool_calls");
        try
        {
            return render(without, false, chat.Variables).Text != text;
        }
        catch (LoraSharpException)
        {
            return true;
        }
    }

    private static void Set(TokenizedText tokens, float[] weights, (int Start, int End) span, float weight)
    {
        for (int t = 0; t < weights.Length; t++)
        {
            (int start, int end) = tokens.Offsets[t];
            if (start < span.End && end > span.Start)
            {
                weights[t] = weight;
            }
        }
    }

    // <|im_end|>\n: the model is stopped at the special token and never writes what follows it.
    private (int Start, int End) WithoutWhiteSpaceAfterEnd(TokenizedText tokens, string text, (int Start, int End) span)
    {
        int trimmed = span.Start + text.AsSpan(span.Start, span.End - span.Start).TrimEnd().Length;
        if (trimmed == span.End)
        {
            return span;
        }

        for (int t = 0; t < tokens.Ids.Length; t++)
        {
            if (tokens.Offsets[t].End == trimmed && tokens.Offsets[t].Start < trimmed && tokenizer.IsSpecial(tokens.Ids[t]))
            {
                return (span.Start, trimmed);
            }
        }

        return span;
    }

    internal static string? Role(JsonNode? message) => message?["role"] is JsonValue value && value.TryGetValue(out string? role) ? role : null;
}
