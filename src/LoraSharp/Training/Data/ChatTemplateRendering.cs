using LoraSharp.Formats.Chat;

namespace LoraSharp.Training.Data;

/// <summary>A model's chat template as the data rooms use it.</summary>
public static class ChatTemplateRendering
{
    /// <summary>Renders with the template.</summary>
    public static ChatRenderer Renderer(this ChatTemplate template) => (messages, addGenerationPrompt, variables) =>
    {
        RenderedChat chat = template.Render(messages, addGenerationPrompt, variables);
        return (chat.Text, chat.AssistantSpans);
    };
}
