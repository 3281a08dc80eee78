using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Layers;

namespace LoraSharp.Models;

/// <content>The rows.</content>
public static partial class DecoderFamilies
{
    private static IEnumerable<DecoderFamily> Rows()
    {
        yield return new("llama")
        {
            AttentionBias = new(false, "attention_bias"),
            FeedForwardBias = new(false, "mlp_bias"),
        };
        yield return new("mistral") { Defaults = Window(4096), LayerType = EveryLayerSlides, ReadsLayerTypes = false };
        yield return new("qwen2")
        {
            Defaults = Window(4096),
            QkvBias = new(true),
            LayerType = SlidesFromLayer,

            // The models of a million tokens: only a serving engine of their makers reads it.
            Refine = (r, c) =>
            {
                r.Skip("dual_chunk_attention_config");
                return c;
            },
        };
        yield return new("qwen3")
        {
            AttentionBias = new(false, "attention_bias"),
            Defaults = Window(4096),
            QueryKeyNorm = QueryKeyNorm.PerHead,
            LayerType = SlidesFromLayer,
        };
        yield return new("gemma")
        {
            Norm = NormKind.RmsUnitOffset,
            Activation = "gelu_pytorch_tanh",
            Tied = true,
            AttentionBias = new(false, "attention_bias"),
            Refine = (r, c) =>
            {
                // The first files say one thing in the older key and another in this one; transformers reads the older.
                r.Skip("hidden_activation");
                return RefineGemma(r, c);
            },
        };
        yield return new("gemma2")
        {
            Norm = NormKind.RmsUnitOffset,
            Names = SandwichNames,
            ActivationKey = "hidden_activation",
            Activation = "gelu_pytorch_tanh",
            Tied = true,
            Defaults = new Dictionary<string, double> { ["sliding_window"] = 4096, ["query_pre_attn_scalar"] = 256, ["attn_logit_softcapping"] = 50, ["final_logit_softcapping"] = 30 },
            AttentionBias = new(false, "attention_bias"),
            LayerType = (_, layer) => layer % 2 == 0 ? LayerTypes.Sliding : LayerTypes.Full,
            Refine = RefineGemma,
        };
        yield return new("gemma3_text")
        {
            Norm = NormKind.RmsUnitOffset,
            Names = SandwichNames,
            ActivationKey = "hidden_activation",
            Activation = "gelu_pytorch_tanh",
            Tied = true,
            Defaults = new Dictionary<string, double> { ["sliding_window"] = 4096, ["query_pre_attn_scalar"] = 256 },
            AttentionBias = new(false, "attention_bias"),
            QueryKeyNorm = QueryKeyNorm.PerHead,
            Theta = 1_000_000,
            LocalTheta = 10_000,
            StretchesFullAttentionOnly = true,
            LayerType = (r, layer) => FullEvery(r, layer, 6),
            Refine = RefineGemma,
        };
        yield return new("phi")
        {
            Norm = NormKind.Layer,
            EpsilonKey = "layer_norm_eps",
            Epsilon = 1e-5,
            Activation = "gelu_new",
            Names = new() { FeedForwardNorm = null, FinalNorm = "model.final_layernorm", Output = "dense", Gate = null, Up = "fc1", Down = "fc2" },
            AttentionBias = new(true),
            FeedForwardBias = new(true),
            PartialRotary = 0.5,
            Refine = (r, c) =>
            {
                if (r.Flag("qk_layernorm", false))
                {
                    c = c with { Attention = c.Attention with { QueryKeyNorm = QueryKeyNorm.PerHead, QueryKeyNames = ("q_layernorm", "k_layernorm") } };
                }

                return c with { Parallel = true, HeadBias = true };
            },
        };
        yield return new("phi3")
        {
            Epsilon = 1e-5,
            Names = new() { Qkv = "qkv_proj", Gate = null, GateUp = "gate_up_proj" },
            Layout = QkvLayout.Concatenated,
            LayerType = EveryLayerSlides,
            ReadsLayerTypes = false,
            PartialRotary = 1,
            Refine = RefinePhi3,
        };
        yield return new("olmo")
        {
            Norm = NormKind.LayerPlain,
            EpsilonKey = null,
            Epsilon = 1e-5,
            AttentionBias = new(false, "attention_bias"),
            Refine = (r, c) => c with { Attention = c.Attention with { Clip = r.NumberOrNull("clip_qkv") } },
        };
        yield return new("olmo2")
        {
            Norm = NormKind.RmsFloat32,
            Epsilon = 1e-5,
            Names = OutputNormNames,
            AttentionBias = new(false, "attention_bias"),
            QueryKeyNorm = QueryKeyNorm.Full,
        };
        yield return new("olmo3")
        {
            Norm = NormKind.RmsFloat32,
            Epsilon = 1e-5,
            Names = OutputNormNames,
            AttentionBias = new(false, "attention_bias"),
            QueryKeyNorm = QueryKeyNorm.Full,
            Defaults = Window(4096),
            StretchesFullAttentionOnly = true,
            LayerType = (r, layer) => FullEvery(r, layer, 4),
        };
        yield return new("granite")
        {
            AttentionBias = new(false, "attention_bias"),
            FeedForwardBias = new(false, "mlp_bias"),
            Refine = RefineGranite,
        };
        yield return new("smollm3")
        {
            AttentionBias = new(false, "attention_bias"),
            FeedForwardBias = new(false, "mlp_bias"),
            Theta = 2_000_000,
            Tied = true,
            LayerType = (r, layer) => r.Flag("use_sliding_window", false) && !SmolRotates(r, layer) ? LayerTypes.Sliding : LayerTypes.Full,
            Refine = (r, c) => c with { Layers = [.. c.Layers.Select((l, i) => SmolRotates(r, i) ? l : l with { Rope = null })] },
        };
        yield return new("gpt2")
        {
            Names = new()
            {
                Prefix = "transformer.",
                Embedding = "transformer.wte",
                Positions = "transformer.wpe",
                Layers = "transformer.h",
                InputNorm = "ln_1",
                FeedForwardNorm = "ln_2",
                FinalNorm = "transformer.ln_f",
                Attention = "attn",
                Qkv = "c_attn",
                Output = "c_proj",
                Gate = null,
                Up = "c_fc",
                Down = "c_proj",
            },
            Aliases = new Dictionary<string, string>
            {
                ["hidden_size"] = "n_embd",
                ["num_hidden_layers"] = "n_layer",
                ["num_attention_heads"] = "n_head",
                ["max_position_embeddings"] = "n_positions",
                ["intermediate_size"] = "n_inner",
            },
            Norm = NormKind.Layer,
            EpsilonKey = "layer_norm_epsilon",
            Epsilon = 1e-5,
            ActivationKey = "activation_function",
            Activation = "gelu_new",
            DefaultFeedForwardSize = d => 4 * d,
            AttentionBias = new(true),
            FeedForwardBias = new(true),
            Tied = true,
            Layout = QkvLayout.Concatenated,
            Rotary = false,
            Refine = RefineGpt2,
        };
        yield return new("gpt_neox")
        {
            Names = new()
            {
                Prefix = "gpt_neox.",
                Embedding = "gpt_neox.embed_in",
                Layers = "gpt_neox.layers",
                FinalNorm = "gpt_neox.final_layer_norm",
                Head = "embed_out",
                Attention = "attention",
                Qkv = "query_key_value",
                Output = "dense",
                Gate = null,
                Up = "dense_h_to_4h",
                Down = "dense_4h_to_h",
            },
            Aliases = new Dictionary<string, string> { ["rope_theta"] = "rotary_emb_base", ["partial_rotary_factor"] = "rotary_pct" },
            Norm = NormKind.Layer,
            EpsilonKey = "layer_norm_eps",
            Epsilon = 1e-5,
            Activation = "gelu",
            AttentionBias = new(true, "attention_bias"),
            FeedForwardBias = new(true),
            Layout = QkvLayout.Grouped,
            PartialRotary = 0.25,
            Refine = (r, c) => c with { Parallel = r.Flag("use_parallel_residual", true) },
        };
        yield return new("starcoder2")
        {
            Names = new() { Gate = null, Up = "c_fc", Down = "c_proj" },
            Norm = NormKind.Layer,
            EpsilonKey = "norm_epsilon",
            Epsilon = 1e-5,
            Activation = "gelu_pytorch_tanh",
            AttentionBias = new(true, "use_bias"),
            FeedForwardBias = new(true, "use_bias"),
            Tied = true,
            LayerType = EveryLayerSlides,
            ReadsLayerTypes = false,
            Refine = (r, c) =>
            {
                r.Skip("attention_softmax_in_fp32", "layer_norm_epsilon", "mlp_type", "norm_type", "scale_attention_softmax_in_fp32", "scale_attn_weights");
                return c;
            },
        };
        yield return new("stablelm")
        {
            Norm = NormKind.Layer,
            EpsilonKey = "layer_norm_eps",
            Epsilon = 1e-5,
            QkvBias = new(false, "use_qkv_bias"),
            PartialRotary = 0.25,
            Refine = (r, c) =>
            {
                r.Skip("rotary_scaling_factor", "rope_pct", "norm_eps");
                if (r.Flag("qk_layernorm", false))
                {
                    c = c with { Attention = c.Attention with { QueryKeyNorm = QueryKeyNorm.EachHead, QueryKeyNames = ("q_layernorm", "k_layernorm") } };
                }

                return r.Flag("use_parallel_residual", false) ? c with { Parallel = true, Names = c.Names with { FeedForwardNorm = null } } : c;
            },
        };
        yield return new("cohere2")
        {
            Names = new() { FeedForwardNorm = null },
            Norm = NormKind.LayerNoBias,
            EpsilonKey = "layer_norm_eps",
            Epsilon = 1e-5,
            AttentionBias = new(false, "attention_bias"),
            Tied = true,
            Defaults = Window(4096),
            InterleavedRope = true,
            LayerType = (r, layer) => FullEvery(r, layer, 4),
            Refine = (r, c) =>
            {
                r.Unsupported("use_qk_norm", false);
                r.Skip("layer_switch", "order_of_interleaved_layers", "position_embedding_type", "rotary_pct", "use_embedding_sharing");
                r.Skip("use_gated_activation", "use_parallel_block", "use_parallel_embedding");
                return c with
                {
                    Parallel = true,
                    LogitScale = r.Number("logit_scale", 0.0625),
                    Layers = [.. c.Layers.Select(l => l.Window is null ? l with { Rope = null } : l)],
                };
            },
        };
        yield return new("glm4")
        {
            Names = new()
            {
                AttentionOutputNorm = "post_self_attn_layernorm",
                FeedForwardOutputNorm = "post_mlp_layernorm",
                Gate = null,
                GateUp = "gate_up_proj",
            },
            Epsilon = 1.5625e-7,
            QkvBias = new(false, "attention_bias"),
            InterleavedRope = true,
            PartialRotary = 0.5,
        };
        yield return new("exaone4")
        {
            Names = OutputNormNames,
            Epsilon = 1e-5,
            QueryKeyNorm = QueryKeyNorm.PerHead,
            Defaults = Window(4096),
            LayerType = ExaoneType,
            Refine = (r, c) => r.Has("sliding_window")
                ? c with { Layers = [.. c.Layers.Select(l => l.Window is null ? l with { Rope = null } : l)] }
                : c,
        };
        yield return new("seed_oss")
        {
            QkvBias = new(true, "attention_bias"),
            OutputBias = new(false, "attention_out_bias"),
            FeedForwardBias = new(false, "mlp_bias"),
        };
        yield return new("ernie4_5")
        {
            Epsilon = 1e-5,
            AttentionBias = new(false, "use_bias"),
            FeedForwardBias = new(false, "use_bias"),
            Tied = true,
            Theta = 500_000,
            InterleavedRope = true,
        };
        yield return new("helium")
        {
            Norm = NormKind.RmsFloat32,
            Epsilon = 1e-8,
            QkvBias = new(false, "attention_bias"),
            FeedForwardBias = new(false, "mlp_bias"),
            Theta = 100_000,
            InterleavedRope = true,
        };
        yield return new("nemotron")
        {
            Names = new() { Gate = null },
            Norm = NormKind.LayerUnitOffset,
            EpsilonKey = "norm_eps",
            Epsilon = 1e-5,
            Activation = "relu2",
            AttentionBias = new(false, "attention_bias"),
            FeedForwardBias = new(false, "mlp_bias"),
            PartialRotary = 0.5,
        };
        yield return new("falcon")
        {
            Names = new()
            {
                Prefix = "transformer.",
                Embedding = "transformer.word_embeddings",
                Layers = "transformer.h",
                FeedForwardNorm = null,
                FinalNorm = "transformer.ln_f",
                Attention = "self_attention",
                Qkv = "query_key_value",
                Output = "dense",
                Gate = null,
                Up = "dense_h_to_4h",
                Down = "dense_4h_to_h",
            },
            Aliases = new Dictionary<string, string> { ["intermediate_size"] = "ffn_hidden_size", ["num_key_value_heads"] = "num_kv_heads" },
            Norm = NormKind.Layer,
            EpsilonKey = "layer_norm_epsilon",
            Epsilon = 1e-5,
            ActivationKey = "activation",
            Activation = "gelu",
            DefaultFeedForwardSize = d => 4 * d,
            AttentionBias = new(false, "bias"),
            FeedForwardBias = new(false, "bias"),
            Tied = true,
            Refine = RefineFalcon,
        };
        yield return new("opt")
        {
            Names = new()
            {
                Prefix = "model.",
                Embedding = "model.decoder.embed_tokens",
                Positions = "model.decoder.embed_positions",
                Layers = "model.decoder.layers",
                InputNorm = "self_attn_layer_norm",
                FeedForwardNorm = "final_layer_norm",
                FinalNorm = "model.decoder.final_layer_norm",
                Output = "out_proj",
                FeedForward = string.Empty,
                Gate = null,
                Up = "fc1",
                Down = "fc2",
            },
            Aliases = new Dictionary<string, string> { ["intermediate_size"] = "ffn_dim" },
            Norm = NormKind.Layer,
            EpsilonKey = null,
            Epsilon = 1e-5,
            ActivationKey = "activation_function",
            Activation = "relu",
            AttentionBias = new(true, "enable_bias"),
            FeedForwardBias = new(true, "enable_bias"),
            Tied = true,
            Rotary = false,
            Refine = RefineOpt,
        };
        yield return new("mixtral")
        {
            Epsilon = 1e-5,
            Theta = 1_000_000,
            LayerType = EveryLayerSlides,
            ReadsLayerTypes = false,
            Refine = (r, c) => WithExperts(c, new()
            {
                Count = r.Int("num_local_experts"),
                PerToken = r.Int("num_experts_per_tok", 2),
                Size = c.FeedForward.Size,
                Activation = c.FeedForward.Activation,
                Routing = Routing.SoftmaxThenTopK,
                Normalize = true,
                Block = "block_sparse_moe",
                Names = ("w1", "w3", "w2"),
            }),
        };
        yield return new("qwen3_moe")
        {
            AttentionBias = new(false, "attention_bias"),
            QueryKeyNorm = QueryKeyNorm.PerHead,
            Defaults = Window(4096),
            ReadsLayerTypes = false,
            LayerType = (r, layer) => r.Flag("use_sliding_window", false) ? EveryLayerSlides(r, layer) : LayerTypes.Full,
            Refine = RefineQwenExperts,
        };
        yield return new("olmoe")
        {
            Epsilon = 1e-5,
            AttentionBias = new(false, "attention_bias"),
            QueryKeyNorm = QueryKeyNorm.Full,
            Refine = (r, c) => WithExperts(c with { Attention = c.Attention with { Clip = r.NumberOrNull("clip_qkv") } }, new()
            {
                Count = ExpertCount(r),
                PerToken = r.Int("num_experts_per_tok", 8),
                Size = c.FeedForward.Size,
                Activation = c.FeedForward.Activation,
                Routing = Routing.SoftmaxThenTopK,
                Normalize = r.Flag("norm_topk_prob", false),
            }),
        };
        yield return new("granitemoe")
        {
            AttentionBias = new(false, "attention_bias"),
            Refine = (r, c) => WithExperts(RefineGranite(r, c), new()
            {
                Count = ExpertCount(r),
                PerToken = r.Int("num_experts_per_tok", 2),
                Size = c.FeedForward.Size,
                Activation = c.FeedForward.Activation,
                Routing = Routing.TopKThenSoftmax,
                Storage = ExpertStorage.Stacked,
                Block = "block_sparse_moe",
                Router = "router.layer",
            }),
        };
        yield return new("gpt_oss")
        {
            Norm = NormKind.RmsFloat32,
            Epsilon = 1e-5,
            AttentionBias = new(true, "attention_bias"),
            Defaults = Window(128),
            Theta = 150_000,
            LayerType = (_, layer) => layer % 2 == 0 ? LayerTypes.Sliding : LayerTypes.Full,
            Refine = (r, c) => WithExperts(c with { Attention = c.Attention with { Sinks = true } }, new()
            {
                Count = ExpertCount(r),
                PerToken = r.Int("num_experts_per_tok", r.Int("experts_per_token", 4)),
                Size = c.FeedForward.Size,
                Activation = c.FeedForward.Activation,
                Routing = Routing.TopKThenSoftmax,
                Storage = ExpertStorage.StackedInterleaved,
                Router = "router",
                ClampLimit = r.Number("swiglu_limit", 7),
            }),
        };
        yield return new("deepseek_v3")
        {
            AttentionBias = new(false, "attention_bias"),
            Aliases = new Dictionary<string, string> { ["head_dim"] = "qk_rope_head_dim" },
            InterleavedRope = true,
            Refine = RefineDeepSeek,
        };
    }

    private static Dictionary<string, double> Window(double tokens) => new() { ["sliding_window"] = tokens };

    private static DecoderNames SandwichNames => new()
    {
        AttentionOutputNorm = "post_attention_layernorm",
        FeedForwardNorm = "pre_feedforward_layernorm",
        FeedForwardOutputNorm = "post_feedforward_layernorm",
    };

    private static DecoderNames OutputNormNames => new()
    {
        InputNorm = null,
        AttentionOutputNorm = "post_attention_layernorm",
        FeedForwardNorm = null,
        FeedForwardOutputNorm = "post_feedforward_layernorm",
    };

    private static string EveryLayerSlides(ConfigReader r, int layer) => r.Has("sliding_window") ? LayerTypes.Sliding : LayerTypes.Full;

    private static string SlidesFromLayer(ConfigReader r, int layer) =>
        r.Flag("use_sliding_window", false) && layer >= r.Int("max_window_layers", 28) ? EveryLayerSlides(r, layer) : LayerTypes.Full;

    private static string FullEvery(ConfigReader r, int layer, int fallback)
    {
        int pattern = r.Int("sliding_window_pattern", r.Int("_sliding_window_pattern", fallback));
        return pattern > 0 && (layer + 1) % pattern != 0 ? LayerTypes.Sliding : LayerTypes.Full;
    }

    // A number, or a text like "LLLG" of local and global layers.
    private static string ExaoneType(ConfigReader r, int layer)
    {
        if (!r.Has("sliding_window"))
        {
            r.Skip("sliding_window_pattern");
            return LayerTypes.Full;
        }

        if (r.Find("sliding_window_pattern") is JsonValue value && value.GetValueKind() == JsonValueKind.String && value.ToString() is { Length: > 0 } text)
        {
            return text[layer % text.Length] == 'L' ? LayerTypes.Sliding : LayerTypes.Full;
        }

        return FullEvery(r, layer, 4);
    }

    private static bool SmolRotates(ConfigReader r, int layer)
    {
        int interval = r.Int("no_rope_layer_interval", 4);
        IReadOnlyList<JsonNode?>? stated = r.List("no_rope_layers");
        return stated is { Count: > 0 } && layer < stated.Count
            ? stated[layer]?.ToString() is not ("0" or "false")
            : interval == 0 || (layer + 1) % interval != 0;
    }

    // Two names of one attribute, and some configurations state both.
    private static int ExpertCount(ConfigReader r)
    {
        r.Skip("num_local_experts");
        return r.Has("num_experts") ? r.Int("num_experts") : r.Int("num_local_experts");
    }

    private static DecoderConfig WithExperts(DecoderConfig config, ExpertsConfig experts) =>
        config with { Experts = experts, Layers = [.. config.Layers.Select(l => l with { Sparse = true })] };
}
