using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;

namespace LoraSharp.Models;

/// <summary>
/// The table of model families. A row says how a <c>model_type</c> differs from Llama; nothing else in the code asks
/// which family a model is. How to add one: <c>docs/adding-a-family.md</c>.
/// </summary>
public static partial class DecoderFamilies
{
    private static readonly IReadOnlyDictionary<string, DecoderFamily> ByName = Rows().ToDictionary(f => f.Name, StringComparer.Ordinal);

    /// <summary>Every supported <c>model_type</c>, sorted.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. ByName.Keys.Order(StringComparer.Ordinal)];

    internal static DecoderConfig Read(JsonObject json, string location, string? modelType)
    {
        ArgumentNullException.ThrowIfNull(json);
        string? stated = json["model_type"] is JsonValue value && value.TryGetValue(out string? text) ? text : null;
        string name = modelType ?? stated ?? throw new LoraSharpException(
            $"{location}: config.json has no 'model_type'. Expected one of {string.Join(", ", Names)}; --model-type NAME sets it.");
        if (!ByName.TryGetValue(name, out DecoderFamily? family))
        {
            throw UnknownFamily(json, location, name, _ => 0);
        }

        var reader = new ConfigReader(json, location, family);
        DecoderConfig config = Resolve(reader, family);
        reader.ThrowIfFaulty(name);
        return config;
    }

    private static DecoderConfig Resolve(ConfigReader r, DecoderFamily family)
    {
        int hidden = r.Int("hidden_size");
        int layers = r.Int("num_hidden_layers");
        int heads = r.Int("num_attention_heads");
        if (heads == 0)
        {
            r.Fault("'num_attention_heads' is 0; expected at least 1");
            heads = 1;
        }

        int keyValueHeads = r.Int("num_key_value_heads", heads);
        int headSize = r.IntOrNull("head_dim") ?? Math.Max(1, hidden / heads);
        int positions = r.Int("max_position_embeddings", 2048);
        if (keyValueHeads == 0 || heads % keyValueHeads != 0)
        {
            r.Fault($"'num_attention_heads' ({heads}) must be a multiple of 'num_key_value_heads' ({keyValueHeads})");
            keyValueHeads = heads;
        }

        Activation activation = ReadActivation(r, family.ActivationKey, family.Activation);
        int width = family.DefaultFeedForwardSize is { } from ? r.IntOrNull("intermediate_size") ?? from(hidden) : r.Int("intermediate_size");
        IReadOnlyDictionary<string, RopeSpec> ropes = family.Rotary
            ? new RopeReader(r, family, headSize, positions).Read()
            : new Dictionary<string, RopeSpec>();
        var config = new DecoderConfig
        {
            ModelType = family.Name,
            VocabularySize = r.Int("vocab_size"),
            HiddenSize = hidden,
            MaxPositions = positions,
            Norm = new(family.Norm, family.EpsilonKey is { } key ? r.Number(key, family.Epsilon) : family.Epsilon),
            Names = family.Names,
            Attention = new()
            {
                Heads = heads,
                KeyValueHeads = keyValueHeads,
                HeadSize = headSize,
                Scale = 1 / Math.Sqrt(headSize),
                QueryKeyNorm = family.QueryKeyNorm,
                Layout = family.Layout,
                QkvBias = Get(r, family.QkvBias),
                OutputBias = Get(r, family.OutputBias),
            },
            FeedForward = new(width, activation, Get(r, family.FeedForwardBias)),
            Layers = ReadLayers(r, family, layers, ropes),
            TieEmbeddings = r.Has("tie_word_embeddings") ? r.Flag("tie_word_embeddings", false) : family.Tied,
        };
        return family.Refine is { } refine ? refine(r, config) : config;
    }

    private static List<DecoderLayerConfig> ReadLayers(ConfigReader r, DecoderFamily family, int count, IReadOnlyDictionary<string, RopeSpec> ropes)
    {
        IReadOnlyList<JsonNode?>? stated = family.ReadsLayerTypes ? r.List("layer_types", count) : null;
        int? window = family.LayerType is not null ? r.IntOrNull("sliding_window") : null;
        var layers = new List<DecoderLayerConfig>();
        for (int i = 0; i < count; i++)
        {
            string byRule = family.LayerType?.Invoke(r, i) ?? LayerTypes.Full;
            string type = stated?[i]?.ToString() ?? byRule;
            if (type == LayerTypes.Sliding && family.LayerType is null)
            {
                r.Fault($"'layer_types[{i}]': \"{type}\" is not implemented for model type '{family.Name}', whose layers see everything");
                type = LayerTypes.Full;
            }
            else if (type is not (LayerTypes.Full or LayerTypes.Sliding))
            {
                r.Fault($"'layer_types[{i}]': \"{type}\" is not implemented; expected {LayerTypes.Full} or {LayerTypes.Sliding}");
                type = LayerTypes.Full;
            }

            window ??= type == LayerTypes.Sliding ? r.IntOrNull("sliding_window") : null;
            layers.Add(new(type == LayerTypes.Sliding ? window : null, ropes.GetValueOrDefault(type), false));
        }

        return layers;
    }

    private static bool Get(ConfigReader r, Switch value) => value.Key is null ? value.Default : r.Flag(value.Key, value.Default);

    private static Activation ReadActivation(ConfigReader r, string key, string fallback)
    {
        string name = r.Text(key, fallback);
        if (Activations.Parse(name) is { } activation)
        {
            return activation;
        }

        r.Fault($"'{key}': \"{name}\" is not implemented; expected silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, relu2, relu6, mish, tanh, sigmoid or linear");
        return Activation.Silu;
    }

    /// <summary>Fails when the model type is not in the table, naming the family whose configuration and tensors fit best.</summary>
    /// <param name="source">The model.</param>
    /// <param name="modelType">What the user calls it; null for what <c>model_type</c> says.</param>
    internal static void ThrowIfUnknown(ModelSource source, string? modelType)
    {
        string? name = modelType ?? source.Config["model_type"]?.ToString();
        if (name is not null && !ByName.ContainsKey(name))
        {
            throw UnknownFamily(source.Config, source.Location, name, config => ModelLoader.CountFaults(source, config));
        }
    }

    // The nearest family leaves the fewest keys and tensors unexplained; what its name has in common breaks ties.
    private static LoraSharpException UnknownFamily(JsonObject json, string location, string name, Func<DecoderConfig, int> tensorFaults)
    {
        string nearest = ByName.Values
            .OrderBy(f => Faults(json, f, tensorFaults))
            .ThenByDescending(f => CommonPrefix(f.Name, name))
            .ThenByDescending(f => f.Name == "llama")
            .First().Name;
        return new LoraSharpException(
            $"{location}: config.json has model_type '{name}', which is not supported. Expected one of {string.Join(", ", Names)}.\n" +
            $"The nearest is '{nearest}': --model-type {nearest} tries it, and says what does not fit.");
    }

    private static int Faults(JsonObject json, DecoderFamily family, Func<DecoderConfig, int> tensorFaults)
    {
        try
        {
            var reader = new ConfigReader(json, string.Empty, family);
            DecoderConfig config = Resolve(reader, family);
            return reader.CountFaults() + tensorFaults(config);
        }
        catch (Exception error) when (error is InvalidOperationException or FormatException or LoraSharpException or ArithmeticException or System.Runtime.InteropServices.ExternalException)
        {
            // A family that this configuration makes no sense for.
            return int.MaxValue;
        }
    }

    private static int CommonPrefix(string a, string b) => a.Zip(b).TakeWhile(p => p.First == p.Second).Count();
}
