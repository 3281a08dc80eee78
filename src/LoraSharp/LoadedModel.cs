using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Inference.Constraints;
using LoraSharp.Models;
using LoraSharp.Serving;
using LoraSharp.Training.Data;

namespace LoraSharp;

/// <summary>A model ready to compute, with everything around it; made by <see cref="EngineSetup.Load"/>.</summary>
public sealed class LoadedModel : IDisposable
{
    private readonly Stack<IDisposable> _owned;
    private readonly Lazy<Tokenizer> _tokenizer;
    private readonly Lazy<ChatTemplate?> _template;
    private readonly Lazy<ConstraintCompiler> _constraints;

    internal LoadedModel(ModelSource source, CausalLanguageModel model, AdapterSet adapters, Stack<IDisposable> owned)
    {
        Source = source;
        Model = model;
        Adapters = adapters;
        _owned = owned;
        _tokenizer = new(LoadTokenizer);
        _template = new(LoadTemplate);
        _constraints = new(() => new ConstraintCompiler(Tokenizer, Generation.EosTokenIds));
    }

    /// <summary>Where it came from.</summary>
    public ModelSource Source { get; }

    /// <summary>The network.</summary>
    public CausalLanguageModel Model { get; }

    /// <summary>The adapters on it.</summary>
    public AdapterSet Adapters { get; }

    /// <summary>Uses the base alone until what is returned is disposed: <c>using (model.DisableAdapters()) { ... }</c>.</summary>
    public IDisposable DisableAdapters() => Adapters.Disable();

    /// <summary>Text to ids; read when first asked for.</summary>
    /// <exception cref="LoraSharpException">The model comes without a tokenizer.</exception>
    public Tokenizer Tokenizer => _tokenizer.Value;

    /// <summary>The same, or null where there is none: rows that came tokenized need none.</summary>
    public Tokenizer? TokenizerOrNull
    {
        get
        {
            try
            {
                return Tokenizer;
            }
            catch (LoraSharpException)
            {
                return null;
            }
        }
    }

    /// <summary>The chat template, or null where there is none or it cannot be read: serving goes on without chats.</summary>
    public ChatTemplate? ChatTemplateOrNull
    {
        get
        {
            try
            {
                return ChatTemplate;
            }
            catch (LoraSharpException)
            {
                return null;
            }
        }
    }

    /// <summary>Starts a serving engine over the model, which must not be used otherwise until that is disposed.</summary>
    /// <param name="limits">Bounds of batch, queue and caches.</param>
    /// <param name="notes">Told, once, when a faster way that the limits ask for cannot be gone.</param>
    public InferenceEngine CreateEngine(EngineLimits limits, Action<string>? notes = null)
    {
        int positions = new[] { "max_position_embeddings", "n_positions" }.Select(k => Source.Config[k]).FirstOrDefault(n => n is not null)?.GetValue<int>() ?? 0;
        return new InferenceEngine(Model, Adapters, TokenizerOrNull, name => EngineSetup.OpenAdapter(name, Source), limits, positions, notes: notes);
    }

    /// <summary>The chat template as the data pipeline takes it; null where there is none.</summary>
    public ChatRenderer? ChatRenderer => ChatTemplate is not { } template ? null : (messages, prompt, variables) =>
    {
        RenderedChat rendered = template.Render(messages, prompt, variables);
        return (rendered.Text, rendered.AssistantSpans);
    };

    /// <summary>The chat template; null where there is none.</summary>
    public ChatTemplate? ChatTemplate => _template.Value;

    /// <summary>End ids and sampling defaults of its makers.</summary>
    public GenerationConfig Generation => GenerationConfig.Read(Source);

    /// <summary>Makes forms that generated texts must have: regular expressions, JSON schemas.</summary>
    /// <exception cref="LoraSharpException">The model comes without a tokenizer.</exception>
    public ConstraintCompiler Constraints => _constraints.Value;

    /// <summary>Frees everything, the last made first.</summary>
    public void Dispose()
    {
        while (_owned.TryPop(out IDisposable? one))
        {
            one.Dispose();
        }
    }

    private Tokenizer LoadTokenizer()
    {
        if (Source.Tensors is not GgufCheckpoint checkpoint)
        {
            return TokenizerLoader.FromFolder(Source.Location);
        }

        string json = checkpoint.TokenizerJson()?.ToJsonString() ?? throw new LoraSharpException($"{Source.Location}: the file holds no tokenizer.");
        JsonObject? config = checkpoint.TokenizerConfig();
        return TokenizerLoader.FromTokenizerJson(Encoding.UTF8.GetBytes(json), Special(config, "bos_token"), Special(config, "eos_token"), Special(config, "pad_token"), Source.Location);
    }

    private ChatTemplate? LoadTemplate()
    {
        if (Source.Tensors is not GgufCheckpoint checkpoint)
        {
            return ChatTemplate.FromFolder(Source.Location);
        }

        JsonObject? config = checkpoint.TokenizerConfig();
        return checkpoint.ChatTemplate is { } template ? ChatTemplate.Parse(template, Special(config, "bos_token"), Special(config, "eos_token")) : null;
    }

    private static string? Special(JsonObject? config, string key) => config?[key]?.GetValue<string>();
}
