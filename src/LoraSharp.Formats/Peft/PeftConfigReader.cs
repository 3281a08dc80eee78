using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Peft;

/// <summary>Interprets the fields of <c>adapter_config.json</c> and collects every fault before it fails.</summary>
internal sealed class PeftConfigReader
{
    // Other methods and variants that change what an adapter computes: loading them as plain LoRA would be silently wrong.
    private static readonly (string Field, string Meaning)[] Refused =
    [
        ("alora_invocation_tokens", "activated LoRA"), ("arrow_config", "Arrow routing"), ("kasa_config", "KaSA"), ("monteclora_config", "MonteCLoRA"),
        ("use_bdlora", "block-diagonal LoRA"), ("use_qalora", "QA-LoRA"), ("layer_replication", "replicated layers"),
    ];

    private readonly JsonObject _json;
    private readonly List<string> _faults = [];
    private readonly HashSet<string> _read = new(StringComparer.Ordinal);

    private PeftConfigReader(JsonObject json) => _json = json;

    public static PeftConfig Read(JsonObject json, string path)
    {
        ArgumentNullException.ThrowIfNull(json);
        var reader = new PeftConfigReader(json);
        PeftConfig config = reader.Read();
        return reader._faults.Count == 0
            ? config
            : throw new MalformedFileException(path, $"{reader._faults.Count} field(s) can't be used:\n  {string.Join("\n  ", reader._faults)}");
    }

    private PeftConfig Read()
    {
        if (Text("peft_type") is not { } type)
        {
            _faults.Add("peft_type: expected \"LORA\", found nothing. Is this the configuration of an adapter?");
        }
        else if (type != "LORA")
        {
            _faults.Add($"peft_type: expected \"LORA\", found \"{type}\". Only LoRA adapters (with rsLoRA, DoRA and the rest of that family) are supported.");
        }

        foreach ((string field, string meaning) in Refused)
        {
            if (_json[field] is { } value && !IsEmpty(value))
            {
                _faults.Add($"{field}: {meaning} is not supported, found {value.ToJsonString()}. Loaded as plain LoRA it would give other answers.");
            }
        }

        var config = new PeftConfig
        {
            BaseModel = Text("base_model_name_or_path"),
            Revision = Text("revision"),
            Rank = Integer("r") ?? 8,
            Alpha = Number("lora_alpha") ?? 8,
            Dropout = Number("lora_dropout") ?? 0,
            TargetModules = Selector("target_modules"),
            TargetParameters = Texts("target_parameters"),
            ExcludeModules = Selector("exclude_modules"),
            LayersToTransform = Integers("layers_to_transform"),
            LayersPattern = Texts("layers_pattern"),
            RankPattern = Map("rank_pattern", (name, node) => AsInteger(name, node)),
            AlphaPattern = Map("alpha_pattern", (name, node) => AsNumber(name, node)),
            UseRsLora = Flag("use_rslora"),
            UseDora = Flag("use_dora"),
            LoraBias = Flag("lora_bias"),
            Bias = Text("bias") ?? "none",
            ModulesToSave = Texts("modules_to_save"),
            TrainableTokens = Tokens("trainable_token_indices"),
            FanInFanOut = Flag("fan_in_fan_out"),
            InitLoraWeights = Initialisation("init_lora_weights"),
            EnsureWeightTying = Flag("ensure_weight_tying"),
            TaskType = Text("task_type"),
        };
        if (config.Rank < 1)
        {
            _faults.Add($"r: expected a whole number of at least 1, found {config.Rank}.");
        }

        if (config.Bias is not ("none" or "all" or "lora_only"))
        {
            _faults.Add($"bias: expected \"none\", \"all\" or \"lora_only\", found \"{config.Bias}\".");
        }

        foreach ((string key, int rank) in config.RankPattern.Where(p => p.Value < 1))
        {
            _faults.Add($"rank_pattern[\"{key}\"]: expected a whole number of at least 1, found {rank}.");
        }

        var others = new JsonObject();
        foreach ((string name, JsonNode? value) in _json.Where(p => !_read.Contains(p.Key)))
        {
            others[name] = value?.DeepClone();
        }

        return config with { Others = others };
    }

    private static bool IsEmpty(JsonNode node) => node switch
    {
        JsonArray array => array.Count == 0,
        JsonObject json => json.Count == 0,
        _ => node.GetValueKind() == JsonValueKind.False,
    };

    private JsonNode? Take(string name)
    {
        _read.Add(name);
        return _json[name];
    }

    private string? Text(string name) => Take(name) switch
    {
        null => null,
        JsonValue value when value.TryGetValue(out string? text) => text,
        { } other => Fault<string>(name, "a string", other),
    };

    private bool Flag(string name) => Take(name) switch
    {
        null => false,
        JsonValue value when value.TryGetValue(out bool flag) => flag,
        { } other => Fault<bool>(name, "true or false", other),
    };

    private int? Integer(string name) => Take(name) is { } node ? AsInteger(name, node) : null;

    private double? Number(string name) => Take(name) is { } node ? AsNumber(name, node) : null;

    private int AsInteger(string name, JsonNode node) =>
        node is JsonValue value && node.GetValueKind() == JsonValueKind.Number && value.TryGetValue(out int number) ? number : Fault<int>(name, "a whole number", node);

    private double AsNumber(string name, JsonNode node) =>
        node is JsonValue value && node.GetValueKind() == JsonValueKind.Number && value.TryGetValue(out double number) && double.IsFinite(number)
            ? number
            : Fault<double>(name, "a number", node);

    private ModuleSelector? Selector(string name) => Take(name) switch
    {
        null => null,
        JsonValue value when value.TryGetValue(out string? text) && text.Length > 0 => ModuleSelector.Regex(text),
        JsonArray array => ModuleSelector.List(Strings(name, array)),
        { } other => Fault<ModuleSelector>(name, "a string or a list of strings", other),
    };

    private IReadOnlyList<string>? Texts(string name) => Take(name) switch
    {
        null => null,
        JsonValue value when value.TryGetValue(out string? text) => text.Length == 0 ? [] : [text],
        JsonArray array => Strings(name, array),
        { } other => Fault<IReadOnlyList<string>>(name, "a list of strings", other),
    };

    private IReadOnlyList<int>? Integers(string name) => Take(name) switch
    {
        null => null,
        JsonArray array => [.. array.Select(item => item is null ? Fault<int>(name, "whole numbers", item) : AsInteger(name, item))],
        { } single => [AsInteger(name, single)],
    };

    private List<string> Strings(string name, JsonArray array) =>
        [.. array.Select(item => item is JsonValue value && value.TryGetValue(out string? text) ? text : Fault<string>(name, "strings in the list", item) ?? string.Empty)];

    private Dictionary<string, T> Map<T>(string name, Func<string, JsonNode, T> read) => Take(name) switch
    {
        null => [],
        JsonObject json => json.Where(p => p.Value is not null).ToDictionary(p => p.Key, p => read($"{name}[\"{p.Key}\"]", p.Value!), StringComparer.Ordinal),
        { } other => Fault<Dictionary<string, T>>(name, "an object", other) ?? [],
    };

    private Dictionary<string, IReadOnlyList<long>>? Tokens(string name)
    {
        List<long> Rows(string field, JsonNode? node) => node is JsonArray rows
            ? [.. rows.Select(r => r is JsonValue v && r.GetValueKind() == JsonValueKind.Number && v.TryGetValue(out long row) && row >= 0 ? row : Fault<long>(field, "token ids", r))]
            : Fault<List<long>>(field, "a list of token ids", node) ?? [];

        return Take(name) switch
        {
            null => null,
            JsonArray array => new() { [string.Empty] = Rows(name, array) },
            JsonObject json => json.ToDictionary(p => p.Key, p => (IReadOnlyList<long>)Rows($"{name}[\"{p.Key}\"]", p.Value), StringComparer.Ordinal),
            { } other => Fault<Dictionary<string, IReadOnlyList<long>>>(name, "a list of token ids, or an object of such lists", other),
        };
    }

    private string Initialisation(string name) => Take(name) switch
    {
        null => "true",
        JsonValue value when value.TryGetValue(out bool flag) => flag ? "true" : "false",
        JsonValue value when value.TryGetValue(out string? text) => text.ToLowerInvariant(),
        { } other => Fault<string>(name, "true, false or a name", other) ?? "true",
    };

    private T? Fault<T>(string name, string expected, JsonNode? found)
    {
        _faults.Add($"{name}: expected {expected}, found {found?.ToJsonString() ?? "null"}.");
        return default;
    }
}
