using static LoraSharp.Formats.Gguf.Mapping.GgufLayout;

namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>The parts that tensor tables of several architectures are put together from.</summary>
internal static class GgufTensorTables
{
    private const string Block = "blk.{i}.";
    private const string Layer = "model.layers.{i}.";

    /// <summary>Embedding, final norm, output of the <c>model.*</c> families.</summary>
    public static IEnumerable<GgufTensorRule> Ends(GgufLayout norm = Same) =>
    [
        new("token_embd", "model.embed_tokens"),
        new("output_norm", "model.norm", norm),
        new("output", "lm_head"),
        new("rope_freqs", "", Ignored),
        new("rope_factors_long", "", Ignored),
        new("rope_factors_short", "", Ignored),
    ];

    /// <summary>Separate q, k, v and the output projection.</summary>
    public static IEnumerable<GgufTensorRule> Attention(bool interleaved = false, string output = "o_proj") =>
    [
        new(Block + "attn_q", Layer + "self_attn.q_proj", interleaved ? RotaryQuery : Same),
        new(Block + "attn_k", Layer + "self_attn.k_proj", interleaved ? RotaryKey : Same),
        new(Block + "attn_v", Layer + "self_attn.v_proj"),
        new(Block + "attn_output", Layer + "self_attn." + output),
    ];

    /// <summary>Norms on q and k.</summary>
    public static IEnumerable<GgufTensorRule> HeadNorms(GgufLayout norm = Same) =>
    [
        new(Block + "attn_q_norm", Layer + "self_attn.q_norm", norm),
        new(Block + "attn_k_norm", Layer + "self_attn.k_norm", norm),
    ];

    /// <summary>Gated MLP.</summary>
    public static IEnumerable<GgufTensorRule> GatedMlp() =>
    [
        new(Block + "ffn_gate", Layer + "mlp.gate_proj"),
        new(Block + "ffn_up", Layer + "mlp.up_proj"),
        new(Block + "ffn_down", Layer + "mlp.down_proj"),
    ];

    /// <summary>MLP whose two input projections are one matrix.</summary>
    public static IEnumerable<GgufTensorRule> FusedMlp() =>
    [
        new(Block + "ffn_up", Layer + "mlp.gate_up_proj"),
        new(Block + "ffn_down", Layer + "mlp.down_proj"),
    ];

    /// <summary>Two-matrix MLP under the names a family gives them.</summary>
    public static IEnumerable<GgufTensorRule> PlainMlp(string up, string down) =>
    [
        new(Block + "ffn_up", Layer + "mlp." + up),
        new(Block + "ffn_down", Layer + "mlp." + down),
    ];

    /// <summary>A router and experts with a matrix each.</summary>
    public static IEnumerable<GgufTensorRule> ExpertMlp(string module, string gate, string up, string down) =>
    [
        new(Block + "ffn_gate_inp", Layer + module + ".gate"),
        new(Block + "ffn_gate_exps", Layer + module + ".experts.{e}." + gate, Experts),
        new(Block + "ffn_up_exps", Layer + module + ".experts.{e}." + up, Experts),
        new(Block + "ffn_down_exps", Layer + module + ".experts.{e}." + down, Experts),
    ];

    /// <summary>Norms before attention and MLP.</summary>
    public static IEnumerable<GgufTensorRule> PreNorms(GgufLayout norm = Same) =>
    [
        new(Block + "attn_norm", Layer + "input_layernorm", norm),
        new(Block + "ffn_norm", Layer + "post_attention_layernorm", norm),
    ];

    /// <summary>Norms before and after attention and MLP (Gemma 2 and 3).</summary>
    public static IEnumerable<GgufTensorRule> SandwichNorms(GgufLayout norm) =>
    [
        new(Block + "attn_norm", Layer + "input_layernorm", norm),
        new(Block + "post_attention_norm", Layer + "post_attention_layernorm", norm),
        new(Block + "ffn_norm", Layer + "pre_feedforward_layernorm", norm),
        new(Block + "post_ffw_norm", Layer + "post_feedforward_layernorm", norm),
    ];

    /// <summary>Norms after attention and MLP only (OLMo 2, EXAONE 4).</summary>
    public static IEnumerable<GgufTensorRule> PostNorms() =>
    [
        new(Block + "post_attention_norm", Layer + "post_attention_layernorm"),
        new(Block + "post_ffw_norm", Layer + "post_feedforward_layernorm"),
    ];

    /// <summary>One line of a block.</summary>
    public static GgufTensorRule InBlock(string gguf, string huggingFace, GgufLayout layout = Same, string? second = null) =>
        new(Block + gguf, huggingFace, layout, second is null ? null : Block + second);
}
