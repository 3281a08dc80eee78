using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Peft;

/// <summary>
/// <c>adapter_config.json</c> of a LoRA adapter as PEFT 0.21 writes it. Fields that are interpreted are properties;
/// every other field, known to PEFT or not, is kept as it was read and written back.
/// </summary>
public sealed record PeftConfig
{
    /// <summary>Name of the file in an adapter folder.</summary>
    public const string FileName = "adapter_config.json";

    /// <summary>Model the adapter belongs to: a path or a hub name; null when it was not recorded.</summary>
    public string? BaseModel { get; init; }

    /// <summary>Revision of the base model on the hub.</summary>
    public string? Revision { get; init; }

    /// <summary>r, the inner dimension of B·A; PEFT's default 8.</summary>
    public int Rank { get; init; } = 8;

    /// <summary>Numerator of the scaling; PEFT's default 8.</summary>
    public double Alpha { get; init; } = 8;

    /// <summary>Probability with which an input element is dropped before A, in training; default 0.</summary>
    public double Dropout { get; init; }

    /// <summary>Modules that get factors; null when the adapter only has other parts.</summary>
    public ModuleSelector? TargetModules { get; init; }

    /// <summary>Tensors that get factors of their own (stacked experts), by full name or its ending; see <see cref="Peft.TargetParameters"/>.</summary>
    public IReadOnlyList<string>? TargetParameters { get; init; }

    /// <summary>Modules that don't, whatever <see cref="TargetModules"/> says.</summary>
    public ModuleSelector? ExcludeModules { get; init; }

    /// <summary>Layers to which suffix targets are limited; null for all.</summary>
    public IReadOnlyList<int>? LayersToTransform { get; init; }

    /// <summary>Names of the list of layers in a path (<c>layers</c>, <c>h</c>); null for any.</summary>
    public IReadOnlyList<string>? LayersPattern { get; init; }

    /// <summary>Ranks by pattern over the end of a module path, in the file's order.</summary>
    public IReadOnlyDictionary<string, int> RankPattern { get; init; } = new Dictionary<string, int>();

    /// <summary>Alphas by pattern over the end of a module path, in the file's order.</summary>
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Scaling alpha / √r instead of alpha / r.</summary>
    public bool UseRsLora { get; init; }

    /// <summary>Weight-decomposed adapters (DoRA, Liu et al. 2024): a trained magnitude an output row.</summary>
    public bool UseDora { get; init; }

    /// <summary>B has a bias of its own.</summary>
    public bool LoraBias { get; init; }

    /// <summary>Biases of the base that are trained: <c>none</c>, <c>all</c> or <c>lora_only</c>.</summary>
    public string Bias { get; init; } = "none";

    /// <summary>Modules that are trained and saved in full.</summary>
    public IReadOnlyList<string>? ModulesToSave { get; init; }

    /// <summary>Rows of embeddings that are trained, by module name; the name is empty when PEFT is to take the input embedding.</summary>
    public IReadOnlyDictionary<string, IReadOnlyList<long>>? TrainableTokens { get; init; }

    /// <summary>Whether the base stores weights as [in, out] (Conv1D); says nothing about the factors.</summary>
    public bool FanInFanOut { get; init; }

    /// <summary>Initialisation: <c>true</c> (Kaiming), <c>false</c> (random B too), or a name such as <c>gaussian</c>, <c>pissa</c>, <c>olora</c>.</summary>
    public string InitLoraWeights { get; init; } = "true";

    /// <summary>Tied weights are adapted together.</summary>
    public bool EnsureWeightTying { get; init; }

    /// <summary><c>CAUSAL_LM</c> unless a file says otherwise.</summary>
    public string? TaskType { get; init; } = "CAUSAL_LM";

    /// <summary>Every field of the file that has no property here, as it was read.</summary>
    public JsonObject Others { get; init; } = [];

    /// <summary>Whether the initialisation takes something out of the base weight, so that the base under the adapter is a residual.</summary>
    public bool ChangesBase => InitLoraWeights.StartsWith("pissa", StringComparison.Ordinal) || InitLoraWeights is "olora" or "corda" or "lora_ga" or "loftq";

    /// <summary>Reads <c>adapter_config.json</c>.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="MalformedFileException">Missing, no JSON, or fields of a wrong type; all of them are named.</exception>
    public static PeftConfig Read(string path) => Parse(HuggingFace.JsonFile.ReadObject(path), path);

    /// <summary>Interprets the fields.</summary>
    /// <param name="json">The object.</param>
    /// <param name="path">Where it came from, for messages.</param>
    /// <exception cref="MalformedFileException">Fields of a wrong type or value; all of them are named.</exception>
    public static PeftConfig Parse(JsonObject json, string path) => PeftConfigReader.Read(json, path);

    /// <summary>The object as PEFT 0.21 writes it: all of its fields, sorted by name.</summary>
    public JsonObject ToJson()
    {
        var fields = new SortedDictionary<string, JsonNode?>(StringComparer.Ordinal);
        foreach ((string name, JsonNode? value) in Defaults())
        {
            fields[name] = value;
        }

        foreach ((string name, JsonNode? value) in Others)
        {
            fields[name] = value?.DeepClone();
        }

        fields["base_model_name_or_path"] = BaseModel;
        fields["revision"] = Revision;
        fields["r"] = Rank;
        fields["lora_alpha"] = Number(Alpha);
        fields["lora_dropout"] = Dropout;
        fields["target_modules"] = TargetModules?.ToJson();
        fields["target_parameters"] = TargetParameters is null ? null : Names(TargetParameters);
        fields["exclude_modules"] = ExcludeModules?.ToJson();
        fields["layers_to_transform"] = LayersToTransform is null ? null : new JsonArray([.. LayersToTransform.Select(i => (JsonNode)JsonValue.Create(i))]);
        fields["layers_pattern"] = LayersPattern is null ? null : LayersPattern.Count == 1 ? JsonValue.Create(LayersPattern[0]) : Names(LayersPattern);
        fields["rank_pattern"] = new JsonObject(RankPattern.Select(p => KeyValuePair.Create(p.Key, (JsonNode?)JsonValue.Create(p.Value))));
        fields["alpha_pattern"] = new JsonObject(AlphaPattern.Select(p => KeyValuePair.Create(p.Key, (JsonNode?)Number(p.Value))));
        fields["use_rslora"] = UseRsLora;
        fields["use_dora"] = UseDora;
        fields["lora_bias"] = LoraBias;
        fields["bias"] = Bias;
        fields["modules_to_save"] = ModulesToSave is null ? null : Names(ModulesToSave);
        fields["trainable_token_indices"] = Tokens();
        fields["fan_in_fan_out"] = FanInFanOut;
        fields["init_lora_weights"] = InitLoraWeights switch { "true" => true, "false" => false, _ => JsonValue.Create(InitLoraWeights) };
        fields["ensure_weight_tying"] = EnsureWeightTying;
        fields["task_type"] = TaskType;
        fields["peft_type"] = "LORA";
        return new JsonObject(fields);
    }

    /// <summary>The file's text: two spaces of indentation, keys sorted, no newline at the end, as PEFT writes it.</summary>
    public string ToText()
    {
        using var buffer = new MemoryStream();
        using (var writer = new Utf8JsonWriter(buffer, new JsonWriterOptions { Indented = true, IndentSize = 2, NewLine = "\n" }))
        {
            WriteNode(writer, ToJson());
        }

        return Encoding.UTF8.GetString(buffer.ToArray());
    }

    /// <summary>Writes <c>adapter_config.json</c> into a folder, aside and then renamed.</summary>
    public void Write(string folder) => AtomicFile.WriteText(Path.Combine(folder, FileName), ToText());

    // Python writes a float that is a whole number with a point, and so do we for lora_dropout.
    private static void WriteNode(Utf8JsonWriter writer, JsonNode? node)
    {
        switch (node)
        {
            case null:
                writer.WriteNullValue();
                break;
            case JsonObject json:
                writer.WriteStartObject();
                foreach ((string name, JsonNode? value) in json)
                {
                    writer.WritePropertyName(name);
                    if (name == "lora_dropout" && value is JsonValue number && number.TryGetValue(out double dropout))
                    {
                        string text = dropout.ToString("R", CultureInfo.InvariantCulture);
                        writer.WriteRawValue(text.Contains('.') || text.Contains('E') ? text : text + ".0");
                    }
                    else
                    {
                        WriteNode(writer, value);
                    }
                }

                writer.WriteEndObject();
                break;
            case JsonArray array:
                writer.WriteStartArray();
                foreach (JsonNode? item in array)
                {
                    WriteNode(writer, item);
                }

                writer.WriteEndArray();
                break;
            default:
                node.WriteTo(writer);
                break;
        }
    }

    private static JsonNode Number(double value) => value == Math.Floor(value) && Math.Abs(value) < 1e15 ? JsonValue.Create((long)value) : JsonValue.Create(value);

    private static JsonArray Names(IEnumerable<string> names) => new([.. names.Select(n => (JsonNode)JsonValue.Create(n))]);

    private JsonNode? Tokens()
    {
        if (TrainableTokens is null)
        {
            return null;
        }

        static JsonArray Indices(IReadOnlyList<long> rows) => new([.. rows.Select(r => (JsonNode)JsonValue.Create(r))]);
        return TrainableTokens.Count == 1 && TrainableTokens.ContainsKey(string.Empty)
            ? Indices(TrainableTokens[string.Empty])
            : new JsonObject(TrainableTokens.Select(p => KeyValuePair.Create(p.Key, (JsonNode?)Indices(p.Value))));
    }

    // Fields of PEFT 0.21 that mean nothing here; a reader of PEFT expects to find them.
    private static IEnumerable<(string Name, JsonNode? Value)> Defaults() =>
    [
        ("alora_invocation_tokens", null), ("arrow_config", null), ("auto_mapping", null), ("corda_config", null), ("eva_config", null),
        ("inference_mode", true), ("kasa_config", null), ("layer_replication", null), ("loftq_config", new JsonObject()), ("lora_ga_config", null),
        ("megatron_config", null), ("megatron_core", "megatron.core"), ("monteclora_config", null), ("peft_version", "0.21.0"),
        ("qalora_group_size", 16), ("use_bdlora", null), ("use_qalora", false), ("velora_config", null),
    ];
}
