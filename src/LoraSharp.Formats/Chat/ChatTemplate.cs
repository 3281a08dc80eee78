using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using LoraSharp.Formats.Chat.Jinja;

namespace LoraSharp.Formats.Chat;

/// <summary>
/// A model's chat template: turns messages into the text the model was trained on, as transformers'
/// <c>apply_chat_template</c> does (Jinja with trim_blocks and lstrip_blocks, loop controls, <c>{% generation %}</c>, a sandbox
/// without side effects). Immutable; safe for concurrent use.
/// </summary>
public sealed partial class ChatTemplate
{
    private const string DefaultName = "default";
    private const string ToolUseName = "tool_use";

    private readonly Dictionary<string, (string Source, IReadOnlyList<Statement> Body)> _templates;
    private readonly IReadOnlyDictionary<string, JsonNode?> _specialTokens;
    private readonly TimeProvider _clock;
    private readonly ChatTemplateLimits _limits;

    private ChatTemplate(Dictionary<string, (string, IReadOnlyList<Statement>)> templates, IReadOnlyDictionary<string, JsonNode?> specialTokens, TimeProvider? clock, ChatTemplateLimits? limits)
    {
        _templates = templates;
        _specialTokens = specialTokens;
        _clock = clock ?? TimeProvider.System;
        _limits = limits ?? new ChatTemplateLimits();
        _limits.Validate();
    }

    /// <summary>Names of the templates; a model with one template calls it <c>default</c>.</summary>
    public IReadOnlyCollection<string> Names => _templates.Keys;

    /// <summary>Source of the template that is used when there are no tools.</summary>
    public string Source => _templates.TryGetValue(DefaultName, out var template) ? template.Source : _templates.Values.First().Source;

    /// <summary>Source of the template that is used when there are tools.</summary>
    public string ToolSource => _templates.TryGetValue(ToolUseName, out var template) ? template.Source : Source;

    /// <summary>Whether tools that are passed come to the model: the template for tools speaks of them.</summary>
    public bool KnowsTools => _templates.ContainsKey(ToolUseName) || ToolsName().IsMatch(Source);

    /// <summary>Whether the template marks what the assistant says with <c>{% generation %}</c> blocks.</summary>
    public bool MarksAssistant => GenerationTag().IsMatch(Source);

    /// <summary>A template from its source.</summary>
    /// <param name="source">The Jinja text.</param>
    /// <param name="bosToken">What <c>bos_token</c> is in the template; null: not defined.</param>
    /// <param name="eosToken">What <c>eos_token</c> is in the template; null: not defined.</param>
    /// <param name="clock">What <c>strftime_now</c> reads; null: the system's clock.</param>
    /// <param name="limits">What a rendering may spend; null: the defaults.</param>
    /// <exception cref="ChatTemplateException">The source cannot be parsed.</exception>
    public static ChatTemplate Parse(string source, string? bosToken, string? eosToken, TimeProvider? clock = null, ChatTemplateLimits? limits = null)
    {
        ArgumentNullException.ThrowIfNull(source);
        var tokens = new Dictionary<string, JsonNode?>();
        if (bosToken is not null)
        {
            tokens["bos_token"] = bosToken;
        }

        if (eosToken is not null)
        {
            tokens["eos_token"] = eosToken;
        }

        return Create(new Dictionary<string, string> { [DefaultName] = source }, tokens, clock, limits);
    }

    /// <summary>Named templates and all special tokens a template may ask for.</summary>
    /// <param name="sources">Jinja texts by name.</param>
    /// <param name="specialTokens">Variables such as <c>bos_token</c>.</param>
    /// <param name="clock">What <c>strftime_now</c> reads; null: the system's clock.</param>
    /// <param name="limits">What a rendering may spend; null: the defaults.</param>
    /// <exception cref="ChatTemplateException">A source cannot be parsed.</exception>
    public static ChatTemplate Create(IReadOnlyDictionary<string, string> sources, IReadOnlyDictionary<string, JsonNode?> specialTokens, TimeProvider? clock = null, ChatTemplateLimits? limits = null)
    {
        ArgumentNullException.ThrowIfNull(sources);
        var templates = new Dictionary<string, (string, IReadOnlyList<Statement>)>();
        foreach ((string name, string source) in sources)
        {
            try
            {
                templates[name] = (source, Parser.Parse(source));
            }
            catch (SyntaxError error)
            {
                throw new ChatTemplateException(error.Message, error.Line, inner: error);
            }
        }

        return new ChatTemplate(templates, specialTokens, clock, limits);
    }

    /// <summary>
    /// The template of a model folder: <c>chat_template.jinja</c> (with <c>additional_chat_templates/</c>), else
    /// <c>chat_template</c> of <c>tokenizer_config.json</c>, a text or a list of named ones, else <c>chat_template.json</c>.
    /// </summary>
    /// <returns>Null when the model has none: it is no chat model.</returns>
    /// <exception cref="MalformedFileException">A file is malformed.</exception>
    /// <exception cref="ChatTemplateException">A template cannot be parsed.</exception>
    public static ChatTemplate? FromFolder(string folder, TimeProvider? clock = null, ChatTemplateLimits? limits = null) => ChatTemplateFiles.Load(folder, clock, limits);

    /// <summary>Renders a conversation.</summary>
    /// <param name="messages">Objects with <c>role</c> and <c>content</c>, and whatever else the template knows (<c>tool_calls</c>, ...).</param>
    /// <param name="addGenerationPrompt">Whether the text ends with the opening of the assistant's next turn.</param>
    /// <param name="variables">
    /// More variables: <c>tools</c>, <c>documents</c>, <c>enable_thinking</c>, ...; they win over special tokens. When there are
    /// tools and a template named <c>tool_use</c>, that one is used.
    /// </param>
    /// <exception cref="ChatTemplateException">The template refuses the messages, fails, or goes beyond its limits.</exception>
    public RenderedChat Render(JsonArray messages, bool addGenerationPrompt, JsonObject? variables = null)
    {
        ArgumentNullException.ThrowIfNull(messages);
        var context = new Dictionary<string, object?> { ["tools"] = null, ["documents"] = null };
        foreach ((string name, JsonNode? value) in _specialTokens.Concat(variables ?? []))
        {
            context[name] = PythonJson.Read(value);
        }

        context["messages"] = PythonJson.Read(messages);
        context["add_generation_prompt"] = addGenerationPrompt;
        IReadOnlyList<Statement> body = Choose(context["tools"] is not null);
        var renderer = new Renderer(new Budget(_limits), () => _clock.GetLocalNow().DateTime);
        try
        {
            return renderer.Render(body, context);
        }
        catch (PythonError error)
        {
            throw new ChatTemplateException(error.Message, renderer.Line, error.Kind == ErrorKind.Template, error);
        }
        catch (Exception error) when (error is OverflowException or ArgumentException or FormatException or InvalidOperationException or InsufficientExecutionStackException)
        {
            // Python would have failed too, in words of its own.
            throw new ChatTemplateException(error.Message, renderer.Line, inner: error);
        }
    }

    private IReadOnlyList<Statement> Choose(bool hasTools)
    {
        if (hasTools && _templates.TryGetValue(ToolUseName, out var template))
        {
            return template.Body;
        }

        return _templates.TryGetValue(DefaultName, out template) ? template.Body
            : throw new ChatTemplateException($"This model has several chat templates and none called '{DefaultName}': {string.Join(", ", _templates.Keys.Order(StringComparer.Ordinal))}. Pass tools where there is '{ToolUseName}', or put the wanted one into chat_template.jinja.", 0);
    }

    [GeneratedRegex(@"\btools\b")]
    private static partial Regex ToolsName();

    [GeneratedRegex(@"\{%[-+]?\s*generation\s*[-+]?%\}")]
    private static partial Regex GenerationTag();
}
