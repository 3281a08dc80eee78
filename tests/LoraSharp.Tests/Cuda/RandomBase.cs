using System.Runtime.InteropServices;
using System.Text.Json;
using LoraSharp.Formats;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Tests.Cuda;

/// <summary>A small base with random weights whose sizes suit the kernels, an embedding and a head of their own.</summary>
internal static class RandomBase
{
    public const int Vocabulary = 160;
    private const int Size = 64, Inner = 96, HeadSize = 32, Heads = 4, KeyHeads = 2, Layers = 2;

    /// <summary>Writes config.json, model.safetensors and a tokenizer whose words are w0, w1, ...</summary>
    /// <param name="folder">Is made.</param>
    /// <param name="family">llama or qwen3 (norms of the heads of q and k).</param>
    public static void Write(string folder, string family)
    {
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "config.json"), JsonSerializer.Serialize(new
        {
            architectures = (string[])[family == "qwen3" ? "Qwen3ForCausalLM" : "LlamaForCausalLM"],
            model_type = family,
            hidden_size = Size,
            intermediate_size = Inner,
            head_dim = HeadSize,
            num_attention_heads = Heads,
            num_key_value_heads = KeyHeads,
            num_hidden_layers = Layers,
            vocab_size = Vocabulary,
            max_position_embeddings = 128,
            rms_norm_eps = 1e-6,
            rope_theta = 10000.0,
            hidden_act = "silu",
            tie_word_embeddings = false,
            torch_dtype = "float32",
        }));
        File.WriteAllText(Path.Combine(folder, "tokenizer.json"), JsonSerializer.Serialize(new
        {
            version = "1.0",
            pre_tokenizer = new { type = "WhitespaceSplit" },
            model = new { type = "WordLevel", vocab = Enumerable.Range(0, Vocabulary).ToDictionary(i => $"w{i}", i => i), unk_token = "w0" },
        }));
        File.WriteAllText(Path.Combine(folder, "tokenizer_config.json"), JsonSerializer.Serialize(new { eos_token = "w1" }));
        var random = new Random(3);
        var tensors = new List<TensorToWrite>();
        void Add(string name, double scale, double around, params long[] shape)
        {
            float[] values = [.. Enumerable.Range(0, (int)shape.Aggregate(1L, (a, b) => a * b)).Select(_ => (float)(around + (scale * ((2 * random.NextDouble()) - 1))))];
            tensors.Add(TensorToWrite.From(new TensorData(new TensorInfo(name, ElementType.F32, shape), MemoryMarshal.AsBytes<float>(values).ToArray())));
        }

        Add("model.embed_tokens.weight", 1, 0, Vocabulary, Size);
        Add("model.norm.weight", 0.1, 1, Size);
        Add("lm_head.weight", 0.5, 0, Vocabulary, Size);
        for (int l = 0; l < Layers; l++)
        {
            string at = $"model.layers.{l}.";
            Add(at + "input_layernorm.weight", 0.1, 1, Size);
            Add(at + "post_attention_layernorm.weight", 0.1, 1, Size);
            Add(at + "self_attn.q_proj.weight", 0.2, 0, Heads * HeadSize, Size);
            Add(at + "self_attn.k_proj.weight", 0.2, 0, KeyHeads * HeadSize, Size);
            Add(at + "self_attn.v_proj.weight", 0.2, 0, KeyHeads * HeadSize, Size);
            Add(at + "self_attn.o_proj.weight", 0.2, 0, Size, Heads * HeadSize);
            Add(at + "mlp.gate_proj.weight", 0.2, 0, Inner, Size);
            Add(at + "mlp.up_proj.weight", 0.2, 0, Inner, Size);
            Add(at + "mlp.down_proj.weight", 0.2, 0, Size, Inner);
            if (family == "qwen3")
            {
                Add(at + "self_attn.q_norm.weight", 0.5, 1, HeadSize);
                Add(at + "self_attn.k_norm.weight", 0.5, 1, HeadSize);
            }
        }

        SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors);
    }
}
