using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Models;

/// <summary>
/// Which keys of a <c>config.json</c> that no family read may be passed over. Training hyperparameters, bookkeeping and
/// generation defaults are; a key that sounds like a change of the forward pass and is not at its neutral value is not.
/// </summary>
internal static class ConfigKeys
{
    // Read by nobody here because they tell about training, files or generation, or repeat what the tensors say.
    private static readonly HashSet<string> Harmless = new(StringComparer.Ordinal)
    {
        "activation_dropout", "attention_dropout", "attn_pdrop", "attn_implementation", "architectures", "auto_map", "aux_loss_alpha",
        "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "classifier_dropout", "cache_implementation", "decoder_start_token_id",
        "dropout", "dtype", "embd_pdrop", "embedding_dropout", "eos_token_id", "ep_size", "finetuning_task", "generation_config", "hidden_dropout",
        "hidden_dropout_prob", "attention_probs_dropout_prob", "id2label", "init_std", "initializer_factor", "initializer_range", "is_decoder",
        "is_encoder_decoder", "keys_to_ignore_at_inference", "label2id", "layerdrop", "max_length", "multi_query_group_num", "num_nextn_predict_layers",
        "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id", "pretraining_tp", "problem_type", "pruned_heads", "prefix",
        "quantization_config", "reorder_and_upcast_attn", "residual_dropout", "resid_pdrop", "return_dict", "router_aux_loss_coef", "router_jitter_noise",
        "router_z_loss_coef", "seq_aux", "seq_length", "sep_token_id", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
        "summary_type", "summary_use_proj", "task_specific_params", "tokenizer_class", "torch_dtype", "transformers_version", "use_cache", "use_bfloat16",
        "max_window_layers", "n_ctx", "n_inner", "gradient_checkpointing", "use_flash_attn", "flash_attn", "mup_base", "_attn_implementation_autoset",
    };

    // A key that holds one of these parts sounds like arithmetic.
    private static readonly string[] Suspicious =
    [
        "scale", "scaling", "multiplier", "softcap", "cap", "norm", "rope", "rotary", "theta", "attn", "attention", "window", "bias", "act", "expert",
        "router", "routing", "moe", "alibi", "factor", "clip", "residual", "layer", "head", "logit", "position", "mask", "parallel", "embed", "gate", "group", "kv",
        "hidden", "state", "conv", "lora", "topk", "top_k", "sink", "interleave", "proj", "temperature", "shared", "dim",
    ];

    /// <summary>Whether the key, unread, might change the forward pass.</summary>
    public static bool MayChangeArithmetic(string key, JsonNode? value) =>
        !Harmless.Contains(key) && key[0] != '_' && !IsNeutral(value) && Array.Exists(Suspicious, part => key.Contains(part, StringComparison.Ordinal));

    private static bool IsNeutral(JsonNode? value) => value?.GetValueKind() switch
    {
        null or JsonValueKind.Null or JsonValueKind.False => true,
        JsonValueKind.Number => value.GetValue<double>() == 0,
        JsonValueKind.Array => ((JsonArray)value).Count == 0,
        JsonValueKind.Object => ((JsonObject)value).Count == 0,
        _ => false,
    };
}
