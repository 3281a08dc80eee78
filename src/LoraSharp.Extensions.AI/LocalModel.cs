using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Inference.Constraints;
using LoraSharp.Serving;

namespace LoraSharp.Extensions.AI;

/// <summary>A base model with its adapters and the engine that computes with them, in this process.</summary>
public sealed class LocalModel : IDisposable
{
    private readonly LoadedModel _loaded;

    private LocalModel(LoadedModel loaded, InferenceEngine engine, LoraSharpOptions options)
    {
        _loaded = loaded;
        Engine = engine;
        Name = options.ModelName ?? options.Model;
        DefaultMaxTokens = options.DefaultMaxTokens;
        Pooling = options.Pooling;
        Generation = loaded.Generation;
    }

    /// <summary>What <c>ModelId</c> calls the base.</summary>
    public string Name { get; }

    /// <summary>Computes; its adapters may be changed while it runs.</summary>
    public InferenceEngine Engine { get; }

    /// <summary>Text to ids and back.</summary>
    public Tokenizer Tokenizer => _loaded.Tokenizer;

    /// <summary>Renders chats.</summary>
    /// <exception cref="LoraSharpException">The model has no chat template.</exception>
    public ChatTemplate Template => _loaded.ChatTemplate ?? throw new LoraSharpException($"{_loaded.Source.Location}: the model has no chat template, so it cannot chat.");

    /// <summary>Forms that texts may be held to.</summary>
    public ConstraintCompiler Constraints => _loaded.Constraints;

    /// <summary>End ids and sampling of the model's makers.</summary>
    public GenerationConfig Generation { get; }

    internal int DefaultMaxTokens { get; }

    internal EmbeddingPooling Pooling { get; }

    /// <summary>Loads the model and every adapter: better no start than one that fails later.</summary>
    /// <exception cref="LoraSharpException">Something is missing or malformed, or an adapter does not fit the base.</exception>
    public static LocalModel Load(LoraSharpOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = options.Model, DType = options.DType, Device = options.Device, Quantize = options.Quantize });
        InferenceEngine? engine = null;
        try
        {
            engine = loaded.CreateEngine(options.Limits);
            foreach ((string name, string path) in options.Adapters)
            {
                // The engine's thread does the work; a container's factory has no await.
                engine.LoadAsync(name, path).GetAwaiter().GetResult();
            }

            return new LocalModel(loaded, engine, options);
        }
        catch
        {
            engine?.Dispose();
            loaded.Dispose();
            throw;
        }
    }

    /// <summary>The adapter of a <c>ModelId</c>; null for the base.</summary>
    internal string? AdapterOf(string? modelId) => modelId is null || modelId == Name ? null : modelId;

    /// <summary>Ends the engine and frees the model.</summary>
    public void Dispose()
    {
        Engine.Dispose();
        _loaded.Dispose();
    }
}
