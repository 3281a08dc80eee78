using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

/// <summary>Options of families that no reference checkpoint has, against the formula written out in float64.</summary>
public sealed class OtherOptionsTests
{
    // Falcon-RW: positions as biases. Three layouts of its heads, and a number of heads that is no power of two.
    [Theory]
    [InlineData(4, false, false)]
    [InlineData(4, true, true)]
    [InlineData(6, false, true)]
    [InlineData(6, true, false)]
    public void FalconWithAlibi(int heads, bool multiQuery, bool parallel)
    {
        const int Size = 8;
        long d = heads * Size, kv = multiQuery ? 1 : heads;
        const string L = "transformer.h.0.";
        List<(string, long[])> shapes =
        [
            ("transformer.word_embeddings.weight", [40, d]), ("transformer.ln_f.weight", [d]), ("transformer.ln_f.bias", [d]),
            (L + "input_layernorm.weight", [d]), (L + "input_layernorm.bias", [d]),
            (L + "self_attention.query_key_value.weight", [d + (2 * kv * Size), d]), (L + "self_attention.query_key_value.bias", [d + (2 * kv * Size)]),
            (L + "self_attention.dense.weight", [d, d]), (L + "self_attention.dense.bias", [d]),
            (L + "mlp.dense_h_to_4h.weight", [4 * d, d]), (L + "mlp.dense_h_to_4h.bias", [4 * d]), (L + "mlp.dense_4h_to_h.weight", [d, 4 * d]), (L + "mlp.dense_4h_to_h.bias", [d]),
        ];
        if (!parallel)
        {
            shapes.AddRange([(L + "post_attention_layernorm.weight", [d]), (L + "post_attention_layernorm.bias", [d])]);
        }

        using var scope = NewDisposeScope();
        using var c = new TinyCheckpoint(
            $$"""
            {"model_type": "falcon", "hidden_size": {{d}}, "num_hidden_layers": 1, "num_attention_heads": {{heads}}, "vocab_size": 40, "alibi": true, "bias": true,
             "multi_query": {{(multiQuery ? "true" : "false")}}, "parallel_attn": {{(parallel ? "true" : "false")}}, "new_decoder_architecture": false}
            """,
            shapes);

        Tensor x = c["transformer.word_embeddings.weight"][c.Ids];
        Tensor normed = c.LayerNorm(x, L + "input_layernorm");
        Tensor all = c.Linear(normed, L + "self_attention.query_key_value");
        Tensor groups = multiQuery ? all.view(2, 9, heads + 2, Size) : all.view(2, 9, heads, 3, Size);
        (Tensor q, Tensor k, Tensor v) = multiQuery
            ? (groups.narrow(2, 0, heads), groups.narrow(2, heads, 1), groups.narrow(2, heads + 1, 1))
            : (groups.select(3, 0), groups.select(3, 1), groups.select(3, 2));

        // Press et al. 2021: 2^(-8/n), 2^(-16/n), ...; the two heads past the fourth take the odd ones of eight. Exact in bfloat16.
        double[] slopes = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125];
        Tensor biases = tensor(slopes[..heads]).view(1, heads, 1, 1) * arange(9, ScalarType.Float64).view(1, 1, 1, 9);
        Tensor attended = c.Linear(TinyCheckpoint.Attention(q, k, v, 1 / Math.Sqrt(Size), biases), L + "self_attention.dense");
        Tensor after = x + attended;
        Tensor inner = c.Linear(parallel ? normed : c.LayerNorm(after, L + "post_attention_layernorm"), L + "mlp.dense_h_to_4h");
        Tensor gelu = inner * 0.5 * (1 + erf(inner / Math.Sqrt(2)));
        Tensor last = c.LayerNorm(after + c.Linear(gelu, L + "mlp.dense_4h_to_h"), "transformer.ln_f");
        Near(last.matmul(c["transformer.word_embeddings.weight"].t()), c);

        // Padding on the left moves every position and changes nothing.
        using var frozen = no_grad();
        Tensor padded = cat([zeros(2, 3, ScalarType.Int64), c.Ids], 1);
        using var attention = new PaddedAttention(cat([zeros(2, 3, ScalarType.Int64), ones(2, 9, ScalarType.Int64)], 1));
        Assert.InRange(Golden.Difference(c.Logits(), c.Model.Forward(padded, Golden.Arange(padded), attention).narrow(1, 3, 9)), 0, 1e-5);
    }

    // opt-350m: norms after the residual, an embedding of half the width, no last norm.
    [Fact]
    public void OptWithNormsAfterTheResidual()
    {
        const long D = 16, W = 8, F = 24;
        const string P = "model.decoder.", L = P + "layers.0.";
        string[] square = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"];
        using var scope = NewDisposeScope();
        using var c = new TinyCheckpoint(
            """
            {"model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 24, "vocab_size": 30, "max_position_embeddings": 20,
             "word_embed_proj_dim": 8, "do_layer_norm_before": false}
            """,
            [
                (P + "embed_tokens.weight", [30, W]), (P + "embed_positions.weight", [22, D]), (P + "project_in.weight", [D, W]), (P + "project_out.weight", [W, D]),
                .. square.SelectMany(n => new (string, long[])[] { (L + n + ".weight", [D, D]), (L + n + ".bias", [D]) }),
                (L + "fc1.weight", [F, D]), (L + "fc1.bias", [F]), (L + "fc2.weight", [D, F]), (L + "fc2.bias", [D]),
                (L + "self_attn_layer_norm.weight", [D]), (L + "self_attn_layer_norm.bias", [D]), (L + "final_layer_norm.weight", [D]), (L + "final_layer_norm.bias", [D]),
            ]);

        Tensor x = c.Linear(c[P + "embed_tokens.weight"][c.Ids], P + "project_in") + c[P + "embed_positions.weight"].narrow(0, 2, 9);
        Tensor Heads(string name) => c.Linear(x, L + "self_attn." + name).view(2, 9, 2, 8);
        Tensor attended = c.Linear(TinyCheckpoint.Attention(Heads("q_proj"), Heads("k_proj"), Heads("v_proj"), 1 / Math.Sqrt(8)), L + "self_attn.out_proj");
        Tensor middle = c.LayerNorm(x + attended, L + "self_attn_layer_norm");
        Tensor block = c.LayerNorm(middle + c.Linear(c.Linear(middle, L + "fc1").clamp(min: 0), L + "fc2"), L + "final_layer_norm");
        Near(c.Linear(block, P + "project_out").matmul(c[P + "embed_tokens.weight"].t()), c);
        Assert.Equal(["model.decoder.project_out", "model.decoder.project_in"], c.Model.Linears.Take(2).Select(l => l.Spec.Name));
    }

    // Norms of q and k: Phi's one for all heads with a bias, StableLM's one a head without.
    [Theory]
    [InlineData("phi")]
    [InlineData("stablelm")]
    public void NormsOfQueriesAndKeys(string family)
    {
        const int D = 16, H = 2, E = 8, F = 24;
        const string L = "model.layers.0.", A = L + "self_attn.";
        bool phi = family == "phi";
        int kv = phi ? 2 : 1;
        (string, long[])[] norms = phi
            ? [(A + "q_layernorm.weight", [E]), (A + "q_layernorm.bias", [E]), (A + "k_layernorm.weight", [E]), (A + "k_layernorm.bias", [E])]
            : [(A + "q_layernorm.norms.0.weight", [E]), (A + "q_layernorm.norms.1.weight", [E]), (A + "k_layernorm.norms.0.weight", [E])];
        (string, long[])[] own = phi
            ?
            [
                ("model.final_layernorm.weight", [D]), ("model.final_layernorm.bias", [D]), ("lm_head.bias", [30]), (A + "q_proj.bias", [D]), (A + "k_proj.bias", [D]), (A + "v_proj.bias", [D]),
                (A + "dense.weight", [D, D]), (A + "dense.bias", [D]), (L + "mlp.fc1.weight", [F, D]), (L + "mlp.fc1.bias", [F]), (L + "mlp.fc2.weight", [D, F]), (L + "mlp.fc2.bias", [D]),
            ]
            :
            [
                ("model.norm.weight", [D]), ("model.norm.bias", [D]), (A + "o_proj.weight", [D, D]), (L + "mlp.gate_proj.weight", [F, D]), (L + "mlp.up_proj.weight", [F, D]), (L + "mlp.down_proj.weight", [D, F]),
            ];
        using var scope = NewDisposeScope();
        using var c = new TinyCheckpoint(
            $$"""
            {"model_type": "{{family}}", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": {{kv}}, "intermediate_size": 24, "vocab_size": 30,
             "qk_layernorm": true, "partial_rotary_factor": 0.5, "use_parallel_residual": true, "tie_word_embeddings": false}
            """.Replace(phi ? "\"use_parallel_residual\": true, " : "\0", string.Empty, StringComparison.Ordinal),
            [
                ("model.embed_tokens.weight", [30, D]), ("lm_head.weight", [30, D]), (L + "input_layernorm.weight", [D]), (L + "input_layernorm.bias", [D]),
                (A + "q_proj.weight", [D, D]), (A + "k_proj.weight", [kv * E, D]), (A + "v_proj.weight", [kv * E, D]), .. norms, .. own,
            ]);

        Tensor x = c["model.embed_tokens.weight"][c.Ids];
        Tensor normed = c.LayerNorm(x, L + "input_layernorm");
        Tensor Heads(string name, int heads) => c.Linear(normed, A + name).view(2, 9, heads, E);
        Tensor Normed(Tensor heads, string name) => phi
            ? c.LayerNorm(heads, A + name)
            : stack([.. Enumerable.Range(0, (int)heads.shape[2]).Select(i => c.LayerNorm(heads.select(2, i), $"{A}{name}.norms.{i}"))], 2);
        Tensor q = TinyCheckpoint.Rotate(Normed(Heads("q_proj", H), "q_layernorm"), 4);
        Tensor k = TinyCheckpoint.Rotate(Normed(Heads("k_proj", kv), "k_layernorm"), 4);
        Tensor mixed = TinyCheckpoint.Attention(q, k, Heads("v_proj", kv), 1 / Math.Sqrt(E));
        Tensor fed;
        if (phi)
        {
            Tensor inner = c.Linear(normed, L + "mlp.fc1");
            fed = c.Linear(inner * 0.5 * (1 + (Math.Sqrt(2 / Math.PI) * (inner + (0.044715 * inner.pow(3)))).tanh()), L + "mlp.fc2");
        }
        else
        {
            Tensor gate = c.Linear(normed, L + "mlp.gate_proj");
            fed = c.Linear(gate * gate.sigmoid() * c.Linear(normed, L + "mlp.up_proj"), L + "mlp.down_proj");
        }

        Tensor last = c.LayerNorm(x + c.Linear(mixed, A + (phi ? "dense" : "o_proj")) + fed, phi ? "model.final_layernorm" : "model.norm");
        Near(c.Linear(last, "lm_head"), c);
    }

    // rope_interleave says how the positions' part of q and k lies in the checkpoint: reordering those rows is the same as the other value.
    [Fact]
    public void DeepSeekWithRotatedHalves()
    {
        const long Rope = 8, Nope = 4;
        const string A = "model.layers.0.self_attn.";
        (string, long[])[] shapes =
        [
            ("model.embed_tokens.weight", [30, 16]), ("lm_head.weight", [30, 16]), ("model.norm.weight", [16]), ("model.layers.0.input_layernorm.weight", [16]), ("model.layers.0.post_attention_layernorm.weight", [16]),
            (A + "q_proj.weight", [2 * (Rope + Nope), 16]), (A + "kv_a_proj_with_mqa.weight", [6 + Rope, 16]), (A + "kv_a_layernorm.weight", [6]), (A + "kv_b_proj.weight", [2 * (Nope + 4), 6]), (A + "o_proj.weight", [16, 8]),
            ("model.layers.0.mlp.gate_proj.weight", [24, 16]), ("model.layers.0.mlp.up_proj.weight", [24, 16]), ("model.layers.0.mlp.down_proj.weight", [16, 24]),
        ];
        string config = """
            {"model_type": "deepseek_v3", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24, "vocab_size": 30, "kv_lora_rank": 6,
             "q_lora_rank": null, "qk_rope_head_dim": 8, "qk_nope_head_dim": 4, "v_head_dim": 4, "moe_intermediate_size": 8, "n_routed_experts": 8, "rope_interleave": true}
            """;
        using var scope = NewDisposeScope();
        using var interleaved = new TinyCheckpoint(config, shapes);
        long[] order = [0, 2, 4, 6, 1, 3, 5, 7];
        Tensor queries = interleaved[A + "q_proj.weight"].to(ScalarType.Float32).view(2, Rope + Nope, 16);
        Tensor keys = interleaved[A + "kv_a_proj_with_mqa.weight"].to(ScalarType.Float32);
        using var halves = new TinyCheckpoint(config.Replace("\"rope_interleave\": true", "\"rope_interleave\": false", StringComparison.Ordinal), shapes, new Dictionary<string, Tensor>
        {
            [A + "q_proj.weight"] = cat([queries.narrow(1, 0, Nope), queries.narrow(1, Nope, Rope).index_select(1, tensor(order))], 1).reshape(-1, 16),
            [A + "kv_a_proj_with_mqa.weight"] = cat([keys.narrow(0, 0, 6), keys.narrow(0, 6, Rope).index_select(0, tensor(order))], 0),
        });

        using var frozen = no_grad();
        using var attention = new PaddedAttention();
        Assert.InRange(Golden.Difference(interleaved.Logits(), halves.Model.Forward(interleaved.Ids, Golden.Arange(interleaved.Ids), attention)), 0, 1e-5);
    }

    // transformers 5: a tied model whose checkpoint has two different matrices is not tied.
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void AHeadOfItsOwnIsTakenWhateverTheConfigurationSays(bool equal)
    {
        const string L = "model.layers.0.";
        using var scope = NewDisposeScope();
        using var random = new Generator(3);
        Tensor table = randn([30, 16], generator: random), head = equal ? table : randn([30, 16], generator: random);
        using var c = new TinyCheckpoint(
            """{"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 30, "tie_word_embeddings": true}""",
            [
                ("model.embed_tokens.weight", [30, 16]), ("lm_head.weight", [30, 16]), ("model.norm.weight", [16]), (L + "input_layernorm.weight", [16]), (L + "post_attention_layernorm.weight", [16]),
                .. "qkvo".Select(p => ($"{L}self_attn.{p}_proj.weight", new long[] { 16, 16 })),
                (L + "mlp.gate_proj.weight", [24, 16]), (L + "mlp.up_proj.weight", [24, 16]), (L + "mlp.down_proj.weight", [16, 24]),
            ],
            new Dictionary<string, Tensor> { ["model.embed_tokens.weight"] = table, ["lm_head.weight"] = head });
        Assert.Equal(equal, c.Model.IsTied);
        using var attention = new PaddedAttention();
        using var frozen = no_grad();
        Tensor hidden = c.Model.Hidden(c.Ids, Golden.Arange(c.Ids), attention);
        Assert.InRange(Golden.Difference(hidden.matmul(head.t()), c.Logits()), 0, 1e-6);
    }

    private static void Near(Tensor expected, TinyCheckpoint checkpoint)
    {
        Assert.InRange(Golden.Difference(expected, checkpoint.Logits().to(ScalarType.Float64)), 0, 1e-5);
        Assert.InRange(Golden.Difference(expected, checkpoint.CachedLogits().to(ScalarType.Float64)), 0, 1e-5);
    }
}
