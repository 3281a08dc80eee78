using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;

namespace LoraSharp.Training.Data;

/// <summary>Finds where a message stands in a rendered conversation by rendering what comes before it, and that with it.</summary>
internal sealed class TurnFinder(DatasetRow row, JsonArray messages, JsonObject variables, ChatRenderer render, string text)
{
    /// <summary>The stretch [start, end) of message <paramref name="index"/>; for the assistant's without the opening of its turn.</summary>
    /// <exception cref="DatasetException">The template renders a beginning of the conversation otherwise than within the whole.</exception>
    public (int Start, int End) Find(int index)
    {
        bool answers = ChatEncoder.Role(messages[index]) == "assistant";
        int start = Start(index, answers);
        return (start, End(index, start));
    }

    internal static (string Text, IReadOnlyList<(int Start, int End)> AssistantSpans) Render(DatasetRow row, ChatRenderer render, JsonArray messages, bool addGenerationPrompt, JsonObject variables)
    {
        try
        {
            return render(messages, addGenerationPrompt, variables);
        }
        catch (LoraSharpException error) when (error is not DatasetException)
        {
            throw new DatasetException(row, $"the model's chat template refuses the conversation: {error.Message}");
        }
    }

    private int Start(int index, bool answers)
    {
        // Some templates (Gemma's, Llama 2's) refuse to render nothing.
        string before = index == 0 ? "" : Beginning(index, false) ?? "";
        if (!answers)
        {
            return text.StartsWith(before, StringComparison.Ordinal) ? before.Length : throw Unlike(index);
        }

        string? opened = Beginning(index, true);
        if (opened is not null && text.StartsWith(opened, StringComparison.Ordinal))
        {
            return opened.Length;
        }

        // The opening may promise more than the turn within the whole shows, such as an empty block of thoughts. Then the
        // turn begins where both part, at the end of a line so that a first letter in common does not count.
        if (opened is not null && text.StartsWith(before, StringComparison.Ordinal))
        {
            int common = text.AsSpan().CommonPrefixLength(opened);
            int line = text.AsSpan(0, common).LastIndexOf('\n') + 1;
            if (line > before.Length)
            {
                return line;
            }
        }

        throw Unlike(index);
    }

    private int End(int index, int start)
    {
        if (index == messages.Count - 1)
        {
            return text.Length;
        }

        string with = Beginning(index + 1, false) ?? throw Unlike(index);
        if (with.Length >= start && text.StartsWith(with, StringComparison.Ordinal))
        {
            return with.Length;
        }

        // As the last message the turn is shown with more before it (thoughts) than within the whole: its end is the
        // longest end of that rendering which the whole shows from the turn's start on.
        for (int from = 0; from < with.Length; from++)
        {
            ReadOnlySpan<char> end = with.AsSpan(from);
            if (!end.IsWhiteSpace() && text.AsSpan(start).StartsWith(end, StringComparison.Ordinal))
            {
                return start + end.Length;
            }
        }

        throw Unlike(index);
    }

    // Null when the template refuses to render it, as those do that want user and assistant in turns.
    private string? Beginning(int count, bool addGenerationPrompt)
    {
        try
        {
            return render(new JsonArray([.. messages.Take(count).Select(m => m?.DeepClone())]), addGenerationPrompt, variables).Text;
        }
        catch (LoraSharpException)
        {
            return null;
        }
    }

    private DatasetException Unlike(int index) => new(row,
        $"message {index} ({ChatEncoder.Role(messages[index])}) can't be found in the rendered conversation: the chat template renders its beginning otherwise than within the whole. Mark what the assistant says with {{% generation %}} in the template, or train on everything (data.train_on: all).");
}
