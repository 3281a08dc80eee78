using System.Text.Json.Nodes;
using LoraSharp.Layers;

namespace LoraSharp.Models;

/// <content>Switches that need more than a row.</content>
public static partial class DecoderFamilies
{
    private static DecoderConfig RefineGemma(ConfigReader r, DecoderConfig config)
    {
        r.Unsupported("use_bidirectional_attention", false);
        r.Skip("hidden_act", "sliding_window_size");
        double scale = r.NumberOrNull("query_pre_attn_scalar") is { } scalar ? 1 / Math.Sqrt(scalar) : config.Attention.Scale;
        return config with
        {
            EmbeddingScale = Math.Sqrt(config.HiddenSize),
            LogitSoftCap = r.NumberOrNull("final_logit_softcapping"),
            Attention = config.Attention with { Scale = scale, SoftCap = r.NumberOrNull("attn_logit_softcapping") },
        };
    }

    private static DecoderConfig RefineGranite(ConfigReader r, DecoderConfig config) => config with
    {
        EmbeddingScale = r.Number("embedding_multiplier", 1),
        ResidualScale = r.Number("residual_multiplier", 1),
        LogitScale = 1 / r.Number("logits_scaling", 1),
        Attention = config.Attention with { Scale = r.Number("attention_multiplier", 1) },
    };

    private static DecoderConfig RefinePhi3(ConfigReader r, DecoderConfig config)
    {
        // Phi-4-mini states what its own code could do besides; transformers' class has no such switches.
        r.Unsupported("full_attn_mod", 1);
        r.Unsupported("interpolate_factor", 1);
        return config;
    }

    private static DecoderConfig RefineGpt2(ConfigReader r, DecoderConfig config)
    {
        r.Unsupported("add_cross_attention", false);
        return config with
        {
            Positions = new(config.MaxPositions, 0),
            Attention = config.Attention with
            {
                Conv1D = true,
                Scale = r.Flag("scale_attn_weights", true) ? config.Attention.Scale : 1,
                ScaleByLayer = r.Flag("scale_attn_by_inverse_layer_idx", false),
            },
        };
    }

    private static DecoderConfig RefineOpt(ConfigReader r, DecoderConfig config)
    {
        // opt-350m has its norms after the residual, no last one, and an embedding half as wide.
        bool before = r.Flag("do_layer_norm_before", true);
        bool noFinalNorm = r.Flag("_remove_final_layer_norm", false) || !before;
        int embedding = r.Int("word_embed_proj_dim", config.HiddenSize);
        r.Unsupported("layer_norm_elementwise_affine", true);
        return config with
        {
            Positions = new(config.MaxPositions, 2, CountsRealTokens: true),
            NormsAfterResidual = !before,
            EmbeddingSize = embedding == config.HiddenSize ? null : embedding,
            Names = noFinalNorm ? config.Names with { FinalNorm = null } : config.Names,
        };
    }

    // Three generations: falcon-rw (heads of [q, k, v]), falcon-7b (one key/value head), falcon-40b ("new": groups, two norms).
    private static DecoderConfig RefineFalcon(ConfigReader r, DecoderConfig config)
    {
        bool alibi = r.Flag("alibi", false);
        bool grouped = r.Flag("new_decoder_architecture", false);
        bool multiQuery = r.Flag("multi_query", true);
        bool parallel = r.Flag("parallel_attn", true) || grouped;
        int norms = r.Int("num_ln_in_parallel_attn", grouped ? 2 : 1);
        int keyValueHeads = grouped ? config.Attention.KeyValueHeads : multiQuery ? 1 : config.Attention.Heads;
        return config with
        {
            Parallel = parallel,
            Layers = alibi ? [.. config.Layers.Select(l => l with { Rope = null })] : config.Layers,
            Attention = config.Attention with
            {
                Alibi = alibi,
                KeyValueHeads = keyValueHeads,
                Layout = grouped || !multiQuery ? QkvLayout.Grouped : QkvLayout.Concatenated,
            },
            Names = (parallel, norms) switch
            {
                (true, 2) when grouped => config.Names with { InputNorm = "ln_attn", FeedForwardNorm = "ln_mlp" },
                (true, _) => config.Names with { InputNorm = "input_layernorm", FeedForwardNorm = null },
                _ => config.Names with { InputNorm = "input_layernorm", FeedForwardNorm = "post_attention_layernorm" },
            },
        };
    }

    private static DecoderConfig RefineQwenExperts(ConfigReader r, DecoderConfig config)
    {
        int step = r.Int("decoder_sparse_step", 1);
        HashSet<int> dense = [];
        foreach (JsonNode? layer in r.List("mlp_only_layers") ?? [])
        {
            if (layer is JsonValue value && value.TryGetValue(out int number))
            {
                dense.Add(number);
            }
            else
            {
                r.Fault($"'mlp_only_layers': expected numbers of layers, found {layer?.ToJsonString() ?? "null"}");
            }
        }

        return config with
        {
            Experts = new()
            {
                Count = ExpertCount(r),
                PerToken = r.Int("num_experts_per_tok", 8),
                Size = r.Int("moe_intermediate_size"),
                Activation = config.FeedForward.Activation,
                Routing = Routing.SoftmaxThenTopK,
                Normalize = r.Flag("norm_topk_prob", false),
            },
            Layers = [.. config.Layers.Select((l, i) => l with { Sparse = !dense.Contains(i) && step > 0 && (i + 1) % step == 0 })],
        };
    }

    private static DecoderConfig RefineDeepSeek(ConfigReader r, DecoderConfig config)
    {
        if (!r.Flag("rope_interleave", true))
        {
            config = config with { Layers = [.. config.Layers.Select(l => l with { Rope = l.Rope! with { Interleaved = false } })] };
        }

        r.Unsupported("scoring_func", "sigmoid");
        r.Unsupported("topk_method", "noaux_tc");
        r.Unsupported("moe_layer_freq", 1);
        r.Skip("head_dim");
        var latent = new LatentConfig(
            r.IntOrNull("q_lora_rank"),
            r.Int("kv_lora_rank"),
            config.Attention.HeadSize,
            r.Int("qk_nope_head_dim"),
            r.Int("v_head_dim"));
        r.Skip("qk_head_dim");
        int expertSize = r.Int("moe_intermediate_size");
        int firstSparse = r.Int("first_k_dense_replace", 3);

        // YaRN's temperature goes into the scale twice, once for q and once for k.
        double scale = 1 / Math.Sqrt(latent.NopeSize + latent.RopeSize);
        if ((r.Find("rope_scaling") is JsonObject { Count: > 0 } older ? older : r.Find("rope_parameters")) is JsonObject rope && rope["mscale_all_dim"] is JsonValue all && all.TryGetValue(out double dimensions) && config.Layers.Count > 0 && config.Layers[0].Rope is { Scaling: not RopeScaling.Default } spec)
        {
            double temperature = RopeReader.YarnTemperature(spec.Factor, dimensions);
            scale *= temperature * temperature;
        }

        return config with
        {
            Attention = config.Attention with { Latent = latent, Scale = scale },
            Experts = new()
            {
                Count = r.Int("n_routed_experts"),
                PerToken = r.Int("num_experts_per_tok", 8),
                Size = expertSize,
                Activation = config.FeedForward.Activation,
                Routing = Routing.GroupedSigmoid,
                Normalize = r.Flag("norm_topk_prob", true),
                WeightScale = r.Number("routed_scaling_factor", 2.5),
                Groups = r.Int("n_group", 8),
                TopGroups = r.Int("topk_group", 4),
                SharedSize = expertSize * r.Int("n_shared_experts", 1),
            },
            Layers = [.. config.Layers.Select((l, i) => l with { Sparse = i >= firstSparse })],
        };
    }
}
