using System.Text.Json.Nodes;
using static LoraSharp.Formats.Gguf.Mapping.GgufFieldKind;
using static LoraSharp.Formats.Gguf.Mapping.GgufLayout;
using static LoraSharp.Formats.Gguf.Mapping.GgufTensorTables;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>The table: one row an architecture. To support another, add a row.</summary>
internal static class GgufArchitectures
{
    private static readonly GgufField RmsEpsilon = new("rms_norm_eps", "attention.layer_norm_rms_epsilon", Number);
    private static readonly IReadOnlyDictionary<string, JsonNode?> Silu = Constant("hidden_act", "silu");
    private static readonly IReadOnlyDictionary<string, JsonNode?> GeluTanh = Constant("hidden_act", "gelu_pytorch_tanh");

    private static readonly GgufArchitecture Llama = new()
    {
        Name = "llama",
        ModelType = "llama",
        ClassName = "LlamaForCausalLM",
        Tensors = [.. Ends(), .. Attention(interleaved: true), .. GatedMlp(), .. PreNorms()],
        Fields = Standard(RmsEpsilon),
        Constants = Silu,
        HeadSizeKey = "head_dim",
        ReadMore = (metadata, config) =>
        {
            config["attention_bias"] = HasTensor(metadata, "blk.0.attn_q.bias");
            config["mlp_bias"] = HasTensor(metadata, "blk.0.ffn_down.bias");
        },
    };

    private static readonly GgufArchitecture Mistral = Llama with
    {
        ModelType = "mistral",
        ClassName = "MistralForCausalLM",
        ReadMore = (metadata, config) => config["sliding_window"] = metadata.IntegerOrNull("attention.sliding_window"),
        WriteMore = (config, writer) =>
        {
            if (config.IntegerOrNull("sliding_window") is { } window)
            {
                writer.Set(".attention.sliding_window", window);
                config.Warnings.Add($"llama.cpp has no sliding window for this architecture: beyond {window} tokens its attention sees more than the model's.");
            }
        },
    };

    private static readonly GgufArchitecture Mixtral = Llama with
    {
        ModelType = "mixtral",
        ClassName = "MixtralForCausalLM",
        Tensors = [.. Ends(), .. Attention(interleaved: true), .. ExpertMlp("block_sparse_moe", "w1", "w3", "w2"), .. PreNorms()],
        Fields = [.. Standard(RmsEpsilon), new("num_local_experts", "expert_count"), new("num_experts_per_tok", "expert_used_count")],
        ReadMore = Mistral.ReadMore,
        WriteMore = Mistral.WriteMore,
    };

    private static readonly GgufArchitecture Qwen2 = new()
    {
        Name = "qwen2",
        ModelType = "qwen2",
        ClassName = "Qwen2ForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. GatedMlp(), .. PreNorms()],
        Fields = Standard(RmsEpsilon),
        Constants = Silu,
        ReadMore = ReadQwenWindow,
        WriteMore = WriteQwenWindow,
    };

    private static readonly GgufArchitecture Qwen3 = Qwen2 with
    {
        Name = "qwen3",
        ModelType = "qwen3",
        ClassName = "Qwen3ForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. HeadNorms(), .. GatedMlp(), .. PreNorms()],
        HeadSizeKey = "head_dim",
        ReadMore = (metadata, config) =>
        {
            config["attention_bias"] = HasTensor(metadata, "blk.0.attn_q.bias");
            ReadQwenWindow(metadata, config);
        },
    };

    private static readonly GgufArchitecture Qwen3Moe = Qwen3 with
    {
        Name = "qwen3moe",
        ModelType = "qwen3_moe",
        ClassName = "Qwen3MoeForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. HeadNorms(), .. ExpertMlp("mlp", "gate_proj", "up_proj", "down_proj"), .. PreNorms()],
        Fields = [.. Standard(RmsEpsilon), new("num_experts", "expert_count") { Alias = "num_local_experts" }, new("num_experts_per_tok", "expert_used_count"), new("moe_intermediate_size", "expert_feed_forward_length")],
        Constants = new Dictionary<string, JsonNode?> { ["hidden_act"] = "silu", ["norm_topk_prob"] = true, ["decoder_sparse_step"] = 1, ["mlp_only_layers"] = new JsonArray() },
    };

    private static readonly GgufArchitecture Olmoe = new()
    {
        Name = "olmoe",
        ModelType = "olmoe",
        ClassName = "OlmoeForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. HeadNorms(), .. ExpertMlp("mlp", "gate_proj", "up_proj", "down_proj"), .. PreNorms()],
        Fields = [.. Standard(RmsEpsilon), new("num_experts", "expert_count") { Alias = "num_local_experts" }, new("num_experts_per_tok", "expert_used_count")],
        Constants = new Dictionary<string, JsonNode?> { ["hidden_act"] = "silu", ["norm_topk_prob"] = false, ["clip_qkv"] = null, ["attention_bias"] = false },
    };

    private static readonly GgufArchitecture Gemma = new()
    {
        Name = "gemma",
        ModelType = "gemma",
        ClassName = "GemmaForCausalLM",
        Tensors = [.. Ends(PlusOne), .. Attention(), .. GatedMlp(), .. PreNorms(PlusOne)],
        Fields = Standard(RmsEpsilon),
        Constants = WithoutBias(GeluTanh),
        HeadSizeKey = "head_dim",
    };

    private static readonly GgufArchitecture Gemma2 = Gemma with
    {
        Name = "gemma2",
        ModelType = "gemma2",
        ClassName = "Gemma2ForCausalLM",
        Tensors = [.. Ends(PlusOne), .. Attention(), .. GatedMlp(), .. SandwichNorms(PlusOne)],
        Fields = [.. Standard(RmsEpsilon), new("attn_logit_softcapping", "attn_logit_softcapping", Number, false), new("final_logit_softcapping", "final_logit_softcapping", Number, false)],
        Constants = WithoutBias(Constant("hidden_activation", "gelu_pytorch_tanh")),
        ReadMore = (metadata, config) =>
        {
            ReadQueryScale(metadata, config, bigModelLayers: 46);
            GgufLayerTypes.Read(metadata, config, 2);
        },
        WriteMore = (config, writer) =>
        {
            WriteQueryScale(config, writer, bigModelLayers: 46);
            GgufLayerTypes.Write(config, writer, 2);
        },
    };

    private static readonly GgufArchitecture Gemma3 = Gemma2 with
    {
        Name = "gemma3",
        ModelType = "gemma3_text",
        ClassName = "Gemma3ForCausalLM",
        Tensors = [.. Ends(PlusOne), .. Attention(), .. HeadNorms(PlusOne), .. GatedMlp(), .. SandwichNorms(PlusOne)],
        ReadMore = (metadata, config) =>
        {
            ReadQueryScale(metadata, config, bigModelLayers: 62);
            GgufLayerTypes.Read(metadata, config, 6);
            config["rope_local_base_freq"] = metadata.NumberOrNull("rope.freq_base_swa") ?? 10000.0;
        },
        WriteMore = (config, writer) =>
        {
            WriteQueryScale(config, writer, bigModelLayers: 62);
            GgufLayerTypes.Write(config, writer, 6);
            JsonObject? local = (config.Json["rope_parameters"] as JsonObject)?["sliding_attention"] as JsonObject;
            double theta = (local is null ? null : config.Number(local, "rope_theta")) ?? config.NumberOrNull("rope_local_base_freq") ?? 10000.0;
            writer.Set(".rope.freq_base_swa", theta);
        },
    };

    private static readonly GgufArchitecture Phi3 = new()
    {
        Name = "phi3",
        ModelType = "phi3",
        ClassName = "Phi3ForCausalLM",
        Tensors =
        [
            .. Ends(), .. FusedMlp(), .. PreNorms(),
            InBlock("attn_qkv", "model.layers.{i}.self_attn.qkv_proj"), InBlock("attn_output", "model.layers.{i}.self_attn.o_proj"),
        ],
        Fields = Standard(RmsEpsilon),
        Constants = Silu,
        PartialRotary = true,
        ReadMore = (metadata, config) => config["sliding_window"] = metadata.IntegerOrNull("attention.sliding_window") is > 0 and int window ? window : null,
        WriteMore = (config, writer) => writer.Set(".attention.sliding_window", config.IntegerOrNull("sliding_window") ?? 0),
    };

    private static readonly GgufArchitecture Phi2 = new()
    {
        Name = "phi2",
        ModelType = "phi",
        ClassName = "PhiForCausalLM",
        Tensors =
        [
            new("token_embd", "model.embed_tokens"), new("output_norm", "model.final_layernorm"), new("output", "lm_head"),
            .. Attention(output: "dense"), .. PlainMlp("fc1", "fc2"), InBlock("attn_norm", "model.layers.{i}.input_layernorm"),
        ],
        Fields = Standard(LayerEpsilon("layer_norm_eps")),
        Constants = new Dictionary<string, JsonNode?> { ["hidden_act"] = "gelu_new", ["qk_layernorm"] = false },
        PartialRotary = true,
        MayTie = false,
    };

    private static readonly GgufArchitecture StableLm = new()
    {
        Name = "stablelm",
        ModelType = "stablelm",
        ClassName = "StableLmForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. GatedMlp(), .. PreNorms()],
        Fields = [.. Standard(LayerEpsilon("layer_norm_eps")), new("use_parallel_residual", "use_parallel_residual", Flag, false)],
        Constants = new Dictionary<string, JsonNode?> { ["hidden_act"] = "silu", ["qk_layernorm"] = false },
        PartialRotary = true,
        ReadMore = (metadata, config) => config["use_qkv_bias"] = HasTensor(metadata, "blk.0.attn_q.bias"),
    };

    private static readonly GgufArchitecture StarCoder2 = new()
    {
        Name = "starcoder2",
        ModelType = "starcoder2",
        ClassName = "Starcoder2ForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. PlainMlp("c_fc", "c_proj"), .. PreNorms()],
        Fields = Standard(LayerEpsilon("norm_epsilon")),
        Constants = GeluTanh,
        ReadMore = (metadata, config) =>
        {
            config["use_bias"] = HasTensor(metadata, "blk.0.attn_q.bias");
            config["sliding_window"] = metadata.IntegerOrNull("attention.sliding_window");
        },
        WriteMore = Mistral.WriteMore,
    };

    private static readonly GgufArchitecture Gpt2 = new()
    {
        Name = "gpt2",
        ModelType = "gpt2",
        ClassName = "GPT2LMHeadModel",
        Tensors =
        [
            new("token_embd", "transformer.wte"), new("position_embd", "transformer.wpe"), new("output_norm", "transformer.ln_f"), new("output", "", Ignored),
            InBlock("attn_norm", "transformer.h.{i}.ln_1"), InBlock("attn_qkv", "transformer.h.{i}.attn.c_attn", Transposed),
            InBlock("attn_output", "transformer.h.{i}.attn.c_proj", Transposed), InBlock("ffn_norm", "transformer.h.{i}.ln_2"),
            InBlock("ffn_up", "transformer.h.{i}.mlp.c_fc", Transposed), InBlock("ffn_down", "transformer.h.{i}.mlp.c_proj", Transposed),
        ],
        Fields =
        [
            new("n_positions", "context_length"), new("n_embd", "embedding_length"), new("n_layer", "block_count"), new("n_head", "attention.head_count"),
            new("n_inner", "feed_forward_length", IsRequired: false), new("layer_norm_epsilon", "attention.layer_norm_epsilon", Number),
        ],
        Constants = new Dictionary<string, JsonNode?> { ["activation_function"] = "gelu_new", ["scale_attn_weights"] = true, ["scale_attn_by_inverse_layer_idx"] = false },
        HasRope = false,
        WriteMore = (config, writer) => writer.Set(".feed_forward_length", config.IntegerOrNull("n_inner") ?? (4 * config.Integer("n_embd"))),
    };

    private static readonly GgufArchitecture GptNeoX = new()
    {
        Name = "gptneox",
        ModelType = "gpt_neox",
        ClassName = "GPTNeoXForCausalLM",
        Tensors =
        [
            new("token_embd", "gpt_neox.embed_in"), new("output_norm", "gpt_neox.final_layer_norm"), new("output", "embed_out"),
            InBlock("attn_norm", "gpt_neox.layers.{i}.input_layernorm"), InBlock("ffn_norm", "gpt_neox.layers.{i}.post_attention_layernorm"),
            InBlock("attn_qkv", "gpt_neox.layers.{i}.attention.query_key_value", NeoxQkv), InBlock("attn_output", "gpt_neox.layers.{i}.attention.dense"),
            InBlock("ffn_up", "gpt_neox.layers.{i}.mlp.dense_h_to_4h"), InBlock("ffn_down", "gpt_neox.layers.{i}.mlp.dense_4h_to_h"),
        ],
        Fields =
        [
            .. Standard(LayerEpsilon("layer_norm_eps")).Where(f => f.HuggingFace != "num_key_value_heads"), new("use_parallel_residual", "use_parallel_residual", Flag),
        ],
        Constants = new Dictionary<string, JsonNode?> { ["hidden_act"] = "gelu", ["attention_bias"] = true },
        PartialRotary = true,
        ReadMore = (_, config) =>
        {
            // transformers 4 reads these names.
            config["rotary_pct"] = config["partial_rotary_factor"]?.DeepClone();
            config["rotary_emb_base"] = config["rope_theta"]?.DeepClone();
        },
    };

    private static readonly GgufArchitecture Falcon = new()
    {
        Name = "falcon",
        ModelType = "falcon",
        ClassName = "FalconForCausalLM",
        Tensors =
        [
            new("token_embd", "transformer.word_embeddings"), new("output_norm", "transformer.ln_f"), new("output", "lm_head"),
            InBlock("attn_norm", "transformer.h.{i}.ln_mlp"), InBlock("attn_norm_2", "transformer.h.{i}.ln_attn"),
            InBlock("attn_qkv", "transformer.h.{i}.self_attention.query_key_value", FalconQkv), InBlock("attn_output", "transformer.h.{i}.self_attention.dense"),
            InBlock("ffn_up", "transformer.h.{i}.mlp.dense_h_to_4h"), InBlock("ffn_down", "transformer.h.{i}.mlp.dense_4h_to_h"),
        ],
        Fields =
        [
            new("hidden_size", "embedding_length"), new("ffn_hidden_size", "feed_forward_length", IsRequired: false), new("num_hidden_layers", "block_count"),
            new("num_attention_heads", "attention.head_count"), new("num_kv_heads", "attention.head_count_kv"), new("max_position_embeddings", "context_length", IsRequired: false),
            new("layer_norm_epsilon", "attention.layer_norm_epsilon", Number),
        ],
        Constants = new Dictionary<string, JsonNode?> { ["activation"] = "gelu", ["alibi"] = false, ["bias"] = false, ["parallel_attn"] = true, ["new_decoder_architecture"] = true },
        ReadMore = (_, config) => config["num_ln_in_parallel_attn"] = 2,
        WriteMore = (config, writer) =>
        {
            writer.Set(".tensor_data_layout", "jploski");
            writer.Set(".context_length", config.IntegerOrNull("max_position_embeddings") ?? 2048);
            writer.Set(".feed_forward_length", config.IntegerOrNull("ffn_hidden_size") ?? (4 * config.Integer("hidden_size")));
        },
    };

    private static readonly GgufArchitecture Falcon7B = Falcon with
    {
        Tensors = [.. Falcon.Tensors.Where(t => !t.Gguf.Contains("attn_norm", StringComparison.Ordinal)), InBlock("attn_norm", "transformer.h.{i}.input_layernorm")],
        Fields = [.. Falcon.Fields.Where(f => f.HuggingFace != "num_kv_heads")],
        Constants = new Dictionary<string, JsonNode?> { ["activation"] = "gelu", ["alibi"] = false, ["bias"] = false, ["parallel_attn"] = true, ["new_decoder_architecture"] = false, ["multi_query"] = true },
        ReadMore = null,
        WriteMore = (config, writer) =>
        {
            Falcon.WriteMore!(config, writer);
            writer.Set(".attention.head_count_kv", 1);
        },
    };

    private static readonly GgufArchitecture Olmo = new()
    {
        Name = "olmo",
        ModelType = "olmo",
        ClassName = "OlmoForCausalLM",
        // Its norms have no weights.
        Tensors = [new("token_embd", "model.embed_tokens"), new("output", "lm_head"), .. Attention(interleaved: true), .. GatedMlp()],
        Fields = [.. Standard(RmsEpsilon).Where(f => f != RmsEpsilon), new("clip_qkv", "attention.clamp_kqv", Number, false)],
        Constants = WithoutBias(Silu),
        WriteMore = (_, writer) => writer.Set(".attention.layer_norm_epsilon", 1e-5),
    };

    private static readonly GgufArchitecture Olmo2 = new()
    {
        Name = "olmo2",
        ModelType = "olmo2",
        ClassName = "Olmo2ForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. HeadNorms(), .. GatedMlp(), .. PostNorms()],
        Fields = Standard(RmsEpsilon),
        Constants = WithoutBias(Silu),
    };

    private static readonly GgufArchitecture Olmo3 = Olmo2 with
    {
        ModelType = "olmo3",
        ClassName = "Olmo3ForCausalLM",
        ReadMore = (metadata, config) => GgufLayerTypes.Read(metadata, config, 4),
        WriteMore = (config, writer) => GgufLayerTypes.Write(config, writer, 4),
    };

    private static readonly GgufArchitecture SmolLm3 = Llama with
    {
        Name = "smollm3",
        ModelType = "smollm3",
        ClassName = "SmolLM3ForCausalLM",
        HeadSizeKey = null,
        ReadMore = (metadata, config) =>
        {
            config["no_rope_layer_interval"] = 4;
            config["no_rope_layers"] = new JsonArray([.. Enumerable.Range(1, metadata.Integer("block_count")).Select(i => (JsonNode)(i % 4 == 0 ? 0 : 1))]);
            config["attention_bias"] = HasTensor(metadata, "blk.0.attn_q.bias");
            config["mlp_bias"] = HasTensor(metadata, "blk.0.ffn_down.bias");
        },
        WriteMore = (config, _) =>
        {
            if (config.Json["no_rope_layers"] is JsonArray layers && !layers.Select((l, i) => ((int)l! == 0) == ((i + 1) % 4 == 0)).All(same => same))
            {
                throw new LoraSharpException($"{config.Location}: no_rope_layers is not every fourth layer; GGUF has no key for it, so the model cannot be exported.");
            }
        },
    };

    private static readonly GgufArchitecture Granite = Llama with
    {
        Name = "granite",
        ModelType = "granite",
        ClassName = "GraniteForCausalLM",
        HeadSizeKey = null,
        Fields =
        [
            .. Standard(RmsEpsilon), new("attention_multiplier", "attention.scale", Number), new("embedding_multiplier", "embedding_scale", Number),
            new("residual_multiplier", "residual_scale", Number), new("logits_scaling", "logit_scale", Number),
        ],
    };

    private static readonly GgufArchitecture GraniteMoe = Granite with
    {
        Name = "granitemoe",
        ModelType = "granitemoe",
        ClassName = "GraniteMoeForCausalLM",
        Tensors =
        [
            .. Ends(), .. Attention(interleaved: true), .. PreNorms(), InBlock("ffn_gate_inp", "model.layers.{i}.block_sparse_moe.router.layer"),
            InBlock("ffn_gate_exps", "model.layers.{i}.block_sparse_moe.input_linear", GateUpExperts, "ffn_up_exps"),
            InBlock("ffn_down_exps", "model.layers.{i}.block_sparse_moe.output_linear"),
        ],
        Fields = [.. Granite.Fields, new("num_local_experts", "expert_count"), new("num_experts_per_tok", "expert_used_count")],
        ReadMore = (metadata, config) => config["attention_bias"] = HasTensor(metadata, "blk.0.attn_q.bias"),
    };

    private static readonly GgufArchitecture Cohere2 = new()
    {
        Name = "cohere2",
        ModelType = "cohere2",
        ClassName = "Cohere2ForCausalLM",
        Tensors =
        [
            new("token_embd", "model.embed_tokens"), new("output_norm", "model.norm"), .. Attention(), .. GatedMlp(), InBlock("attn_norm", "model.layers.{i}.input_layernorm"),
        ],
        Fields = [.. Standard(LayerEpsilon("layer_norm_eps")), new("logit_scale", "logit_scale", Number)],
        Constants = WithoutBias(Silu),
        HeadSizeKey = "head_dim",
        ReadMore = (metadata, config) => GgufLayerTypes.Read(metadata, config, 4),
        WriteMore = (config, writer) => GgufLayerTypes.Write(config, writer, 4),
    };

    private static readonly GgufArchitecture Exaone4 = new()
    {
        Name = "exaone4",
        ModelType = "exaone4",
        ClassName = "Exaone4ForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. HeadNorms(), .. GatedMlp(), .. PostNorms()],
        Fields = Standard(RmsEpsilon),
        Constants = Silu,
        ReadMore = (metadata, config) => GgufLayerTypes.Read(metadata, config, 4),
        WriteMore = (config, writer) => GgufLayerTypes.Write(config, writer, 4),
    };

    private static readonly GgufArchitecture Nemotron = new()
    {
        Name = "nemotron",
        ModelType = "nemotron",
        ClassName = "NemotronForCausalLM",
        Tensors =
        [
            .. Ends(PlusOne), .. Attention(), .. PlainMlp("up_proj", "down_proj"), .. PreNorms(PlusOne),
        ],
        Fields = Standard(LayerEpsilon("norm_eps")),
        Constants = Constant("hidden_act", "relu2"),
        HeadSizeKey = "head_dim",
        PartialRotary = true,
        ReadMore = (metadata, config) =>
        {
            config["attention_bias"] = HasTensor(metadata, "blk.0.attn_q.bias");
            config["mlp_bias"] = HasTensor(metadata, "blk.0.ffn_down.bias");
        },
    };

    private static readonly GgufArchitecture Glm4 = new()
    {
        Name = "glm4",
        ModelType = "glm4",
        ClassName = "Glm4ForCausalLM",
        Tensors =
        [
            .. Ends(), .. Attention(), .. FusedMlp(), .. PreNorms(),
            InBlock("post_attention_norm", "model.layers.{i}.post_self_attn_layernorm"), InBlock("post_ffw_norm", "model.layers.{i}.post_mlp_layernorm"),
        ],
        Fields = Standard(RmsEpsilon),
        Constants = Silu,
        HeadSizeKey = "head_dim",
        PartialRotary = true,
        ReadMore = (metadata, config) => config["attention_bias"] = HasTensor(metadata, "blk.0.attn_q.bias"),
    };

    private static readonly GgufArchitecture SeedOss = new()
    {
        Name = "seed_oss",
        ModelType = "seed_oss",
        ClassName = "SeedOssForCausalLM",
        Tensors =
        [
            .. Ends(), .. Attention(), .. GatedMlp(), InBlock("attn_norm", "model.layers.{i}.input_layernorm"),
            InBlock("post_attention_norm", "model.layers.{i}.post_attention_layernorm"),
        ],
        Fields = Standard(RmsEpsilon),
        Constants = new Dictionary<string, JsonNode?> { ["hidden_act"] = "silu", ["mlp_bias"] = false },
        HeadSizeKey = "head_dim",
        ReadMore = (metadata, config) =>
        {
            config["attention_bias"] = HasTensor(metadata, "blk.0.attn_q.bias");
            config["attention_out_bias"] = HasTensor(metadata, "blk.0.attn_output.bias");
        },
    };

    private static readonly GgufArchitecture Ernie45 = new()
    {
        Name = "ernie4_5",
        ModelType = "ernie4_5",
        ClassName = "Ernie4_5ForCausalLM",
        Tensors = [.. Ends(), .. Attention(), .. GatedMlp(), .. PreNorms()],
        Fields = Standard(RmsEpsilon),
        Constants = new Dictionary<string, JsonNode?> { ["hidden_act"] = "silu", ["use_bias"] = false },
        HeadSizeKey = "head_dim",
    };

    private static readonly GgufArchitecture[] All =
    [
        Llama, Mistral, Mixtral, Qwen2, Qwen3, Qwen3Moe, Olmoe, Gemma, Gemma2, Gemma3, Phi3, Phi2, StableLm, StarCoder2, Gpt2, GptNeoX, Falcon, Falcon7B,
        Olmo, Olmo2, Olmo3, SmolLm3, Granite, GraniteMoe, Cohere2, Exaone4, Nemotron, Glm4, SeedOss, Ernie45,
    ];

    /// <summary>The row for a file.</summary>
    /// <exception cref="MalformedFileException">The file names no architecture, or one that is not in the table.</exception>
    public static GgufArchitecture Of(GgufShards file)
    {
        string name = file.Find("general.architecture")?.AsString()
            ?? throw new MalformedFileException(file.Location, "has no metadata 'general.architecture': this is no model.");
        return name switch
        {
            "llama" when file.Find("llama.expert_count")?.AsInt64() > 0 => Mixtral,
            "llama" when file.Find("llama.attention.sliding_window")?.AsInt64() > 0 => Mistral,
            "falcon" when !file.Tensors.ContainsKey("blk.0.attn_norm_2.weight") => Falcon7B,
            "olmo2" when file.Find("olmo2.attention.sliding_window")?.AsInt64() > 0 => Olmo3,
            _ => All.FirstOrDefault(a => a.Name == name)
                ?? throw new MalformedFileException(file.Location, $"is of architecture '{name}'. Supported: {string.Join(", ", All.Select(a => a.Name).Distinct())}."),
        };
    }

    /// <summary>The row for a config.json.</summary>
    /// <exception cref="LoraSharpException">The model type is not in the table.</exception>
    public static GgufArchitecture Of(GgufModelConfig config)
    {
        string type = config.TextOrNull("model_type") ?? throw new MalformedFileException(config.Location, "config.json has no model_type.");
        return type switch
        {
            "falcon" when config.FlagOrNull("new_decoder_architecture") != true => Falcon7B,
            _ => All.FirstOrDefault(a => a.ModelType == type)
                ?? throw new LoraSharpException($"{config.Location}: models of type '{type}' cannot be exported to GGUF. Supported: {string.Join(", ", All.Select(a => a.ModelType).Distinct())}."),
        };
    }

    private static GgufField LayerEpsilon(string key) => new(key, "attention.layer_norm_epsilon", Number);

    private static GgufField[] Standard(GgufField epsilon) =>
    [
        new("max_position_embeddings", "context_length"),
        new("hidden_size", "embedding_length"),
        new("num_hidden_layers", "block_count"),
        new("intermediate_size", "feed_forward_length"),
        new("num_attention_heads", "attention.head_count"),
        new("num_key_value_heads", "attention.head_count_kv", IsRequired: false),
        epsilon,
    ];

    private static Dictionary<string, JsonNode?> Constant(string key, string value) => new() { [key] = value };

    // Tensors of biases would be left over where llama.cpp's graph has no place for them.
    private static Dictionary<string, JsonNode?> WithoutBias(IReadOnlyDictionary<string, JsonNode?> constants) => new(constants) { ["attention_bias"] = false };

    private static bool HasTensor(GgufModelMetadata metadata, string name) => metadata.File.Tensors.ContainsKey(name);

    private static void ReadQwenWindow(GgufModelMetadata metadata, JsonObject config)
    {
        GgufLayerTypes.Read(metadata, config, 0);
        config["use_sliding_window"] = config["sliding_window"] is not null;
    }

    private static void WriteQwenWindow(GgufModelConfig config, GgufMetadataWriter writer)
    {
        if (config.FlagOrNull("use_sliding_window") == true && config.Json["layer_types"] is JsonArray)
        {
            GgufLayerTypes.Write(config, writer, 0);
        }
    }

    // llama.cpp scales queries by the size of a head, and in the 27B models, which it tells by their layers, by hidden size / heads.
    private static void ReadQueryScale(GgufModelMetadata metadata, JsonObject config, int bigModelLayers)
    {
        int heads = metadata.Integer("attention.head_count");
        double usual = metadata.Integer("block_count") == bigModelLayers
            ? (double)metadata.Integer("embedding_length") / heads
            : metadata.IntegerOrNull("attention.key_length") ?? metadata.Integer("embedding_length") / heads;
        config["query_pre_attn_scalar"] = metadata.NumberOrNull("attention.scale") is { } scale ? Math.Round(1 / (scale * scale), 3) : usual;
    }

    private static void WriteQueryScale(GgufModelConfig config, GgufMetadataWriter writer, int bigModelLayers)
    {
        int size = config.IntegerOrNull("head_dim") ?? (config.Integer("hidden_size") / config.Integer("num_attention_heads"));
        double usual = config.Integer("num_hidden_layers") == bigModelLayers ? (double)config.Integer("hidden_size") / config.Integer("num_attention_heads") : size;
        double own = config.NumberOrNull("query_pre_attn_scalar") ?? usual;
        if (own != usual)
        {
            writer.Set(".attention.scale", 1 / Math.Sqrt(own));
            config.Warnings.Add($"query_pre_attn_scalar is {own}; llama.cpp takes {usual} for this architecture, so its logits will differ.");
        }
    }
}
