using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Datasets;

/// <summary>
/// Preference rows: a prompt of text or messages with two answers of text or messages, an instruction with two answers, or
/// two whole conversations (or texts) whose common beginning is the prompt.
/// </summary>
internal static class PreferenceParser
{
    private static readonly string[] PromptNames = ["prompt", "question", "query", "input"];

    public static PreferenceContent Parse(RowFields fields)
    {
        if (fields.Node("messages") is JsonArray conversation)
        {
            return new PreferenceContent(Continue(fields, conversation, "chosen"), Continue(fields, conversation, "rejected"));
        }

        if (fields.Has("instruction") && !fields.Has("prompt"))
        {
            return new PreferenceContent(Instruction(fields, "chosen"), Instruction(fields, "rejected"));
        }

        JsonNode? prompt = PromptNames.Select(fields.Node).FirstOrDefault(n => n is not null);
        bool chosenIsChat = fields.Node("chosen") is JsonArray or JsonObject;
        bool rejectedIsChat = fields.Node("rejected") is JsonArray or JsonObject;
        if (chosenIsChat != rejectedIsChat)
        {
            throw fields.Fault($"'chosen' is {DatasetReader.Kind(fields.Node("chosen"))}, 'rejected' is {DatasetReader.Kind(fields.Node("rejected"))}. Expected both as text or both as messages.");
        }

        if (prompt is JsonArray messages)
        {
            return new PreferenceContent(Continue(fields, messages, "chosen"), Continue(fields, messages, "rejected"));
        }

        if (chosenIsChat)
        {
            return Whole(fields, prompt is null ? null : Text(fields, prompt));
        }

        string chosen = fields.Text("chosen");
        string rejected = fields.Text("rejected");
        if (prompt is not null)
        {
            string text = Text(fields, prompt);
            return new PreferenceContent(new PromptContent(text, chosen), new PromptContent(text, rejected));
        }

        // No prompt column: the prompt is what both begin with, cut back to the last white space so that no word is split.
        int common = chosen.AsSpan().CommonPrefixLength(rejected);
        common = common == Math.Max(chosen.Length, rejected.Length) ? throw fields.Fault("'chosen' and 'rejected' are equal.") : chosen.AsSpan(0, common).LastIndexOfAny(' ', '\n') is var cut && cut >= 0 ? cut : 0;
        return new PreferenceContent(new PromptContent(chosen[..common], chosen[common..]), new PromptContent(chosen[..common], rejected[common..]));
    }

    private static string Text(RowFields fields, JsonNode prompt) =>
        prompt is JsonValue value && value.TryGetValue(out string? text) ? text : throw fields.Fault($"the prompt must be text or messages, found {DatasetReader.Kind(prompt)}.");

    private static ChatContent Continue(RowFields fields, JsonArray prompt, string field) =>
        ConversationParser.Build(fields, ConversationParser.Concatenate(prompt, ConversationParser.Answer(fields, field)), prompt.Count);

    private static AlpacaContent Instruction(RowFields fields, string field) =>
        new(fields.Text("instruction"), fields.OptionalText("input") ?? "", fields.Text(field), fields.OptionalText("system"), []);

    private static PreferenceContent Whole(RowFields fields, string? prompt)
    {
        JsonArray chosen = ConversationParser.Answer(fields, "chosen");
        JsonArray rejected = ConversationParser.Answer(fields, "rejected");
        int common = 0;
        while (common < Math.Min(chosen.Count, rejected.Count) && JsonNode.DeepEquals(chosen[common], rejected[common]))
        {
            common++;
        }

        if (common == chosen.Count || common == rejected.Count)
        {
            throw fields.Fault("'chosen' and 'rejected' are equal, or one goes on where the other ends. Expected two different answers to one prompt.");
        }

        if (common == 0)
        {
            if (prompt is null)
            {
                throw fields.Fault("'chosen' and 'rejected' share no first message, and there is no 'prompt'.");
            }

            var user = new JsonArray(new JsonObject { ["role"] = "user", ["content"] = prompt });
            return new PreferenceContent(Continue(fields, user, "chosen"), Continue(fields, user, "rejected"));
        }

        return new PreferenceContent(ConversationParser.Build(fields, chosen, common), ConversationParser.Build(fields, rejected, common));
    }
}
