using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Gguf.Mapping;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Formats.Tests.Gguf;

public sealed class GgufCheckpointTests
{
    [Fact]
    public void Config_has_the_form_of_transformers()
    {
        using GgufCheckpoint checkpoint = GgufCheckpoint.Open(Fixtures.Path("gguf/tiny-q4_0.gguf"));
        JsonObject config = checkpoint.Config;
        Assert.Equal("llama", (string?)config["model_type"]);
        Assert.Equal("LlamaForCausalLM", (string?)config["architectures"]![0]);
        Assert.Equal(256, (int)config["hidden_size"]!);
        Assert.Equal(256, (int)config["intermediate_size"]!);
        Assert.Equal(2, (int)config["num_hidden_layers"]!);
        Assert.Equal(8, (int)config["num_attention_heads"]!);
        Assert.Equal(2, (int)config["num_key_value_heads"]!);
        Assert.Equal(32, (int)config["head_dim"]!);
        Assert.Equal(512, (int)config["max_position_embeddings"]!);
        Assert.Equal(288, (int)config["vocab_size"]!);
        Assert.Equal(1e-6, (double)config["rms_norm_eps"]!);
        Assert.Equal(10000.0, (double)config["rope_theta"]!);
        Assert.Equal("silu", (string?)config["hidden_act"]);
        Assert.False((bool)config["tie_word_embeddings"]!);
        Assert.False((bool)config["attention_bias"]!);
        Assert.Equal(1, (int)config["bos_token_id"]!);
        Assert.Equal(2, (int)config["eos_token_id"]!);
        Assert.Contains("add_generation_prompt", checkpoint.ChatTemplate!, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("f32")]
    [InlineData("f16")]
    [InlineData("bf16")]
    public void Tensors_of_plain_types_equal_the_checkpoint_they_came_from(string type)
    {
        // Weights of the fixture are bfloat16 numbers, so that only fp16's exponent range could change them.
        using SafetensorsCheckpoint expected = SafetensorsCheckpoint.Open(Fixtures.ReferenceOrSkip("fixtures/gguf/hf"));
        using GgufCheckpoint checkpoint = GgufCheckpoint.Open(Fixtures.ReferenceOrSkip($"fixtures/gguf/tiny-{type}.gguf"));
        Assert.Equal(expected.Tensors.Keys.Order(StringComparer.Ordinal), checkpoint.Tensors.Keys.Order(StringComparer.Ordinal));
        foreach ((string name, TensorInfo info) in expected.Tensors)
        {
            Assert.Equal(info.Shape, checkpoint.Tensors[name].Shape);
            float[] wanted = Floats(expected.Read(name));
            float[] found = Floats(checkpoint.Read(name));
            for (int i = 0; i < wanted.Length; i++)
            {
                Assert.True(Math.Abs(wanted[i] - found[i]) <= (type == "f16" ? 3e-8f : 0), $"{name}[{i}]: {wanted[i]} and {found[i]}");
            }
        }
    }

    [Fact]
    public void The_real_model_equals_its_unpacked_folder()
    {
        using SafetensorsCheckpoint expected = SafetensorsCheckpoint.Open(Fixtures.ReferenceOrSkip("unpacked/smollm2-135m-instruct"));
        using GgufCheckpoint checkpoint = GgufCheckpoint.Open(Fixtures.ReferenceOrSkip("models/smollm2-135m-instruct/model.q4_1.gguf"));
        Assert.Equal(expected.Tensors.Keys.Order(StringComparer.Ordinal), checkpoint.Tensors.Keys.Order(StringComparer.Ordinal));
        foreach (string name in expected.Tensors.Keys)
        {
            float[] wanted = Floats(expected.Read(name));
            float[] found = Floats(checkpoint.Read(name));
            Assert.Equal(wanted.Length, found.Length);
            for (int i = 0; i < wanted.Length; i++)
            {
                uint bits = BitConverter.SingleToUInt32Bits(found[i]);
                float rounded = BitConverter.UInt32BitsToSingle((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
                if (rounded != wanted[i])
                {
                    Assert.Fail($"{name}[{i}]: {wanted[i]} and {found[i]}");
                }
            }
        }
    }

    [Fact]
    public void An_unknown_architecture_names_those_that_are_known()
    {
        using var folder = new TemporaryFolder();
        string path = folder.File("m.gguf");
        File.WriteAllBytes(path, new GgufBytes().String("general.architecture", "mamba").ToArray());
        MalformedFileException error = Assert.Throws<MalformedFileException>(() => GgufCheckpoint.Open(path));
        Assert.Contains("is of architecture 'mamba'. Supported: llama, qwen2", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_adapter_is_no_model()
    {
        MalformedFileException error = Assert.Throws<MalformedFileException>(() => GgufCheckpoint.Open(Fixtures.Path("gguf/adapter-f32.gguf")));
        Assert.Contains("--adapter", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Llama3_factors_give_their_four_numbers_back()
    {
        float[] factors = GgufLlama3Rope.Factors(500000, 128, 8, 1, 4, 8192);
        Assert.Equal(1, factors[0]);
        Assert.Equal(8, factors[^1]);
        JsonObject found = GgufLlama3Rope.Recover(factors, 500000, 128, null)!;
        Assert.Equal(8192, (int)found["original_max_position_embeddings"]!);
        Assert.Equal(8.0, (double)found["factor"]!);
        JsonObject small = GgufLlama3Rope.Recover(GgufLlama3Rope.Factors(500000, 16, 8, 1, 4, 64), 500000, 16, null)!;
        Assert.Equal(64, (int)small["original_max_position_embeddings"]!);
        Assert.Null(GgufLlama3Rope.Recover([1, 5, 2, 8], 10000, 8, null));
    }

    [Fact]
    public void Row_orders_are_permutations_with_their_inverse()
    {
        Assert.Equal([0, 2, 4, 1, 3, 5], GgufRowOrder.Rotary(6, 1));
        // Two groups of two queries, heads of one row: q0 q1 k v | q2 q3 k v → q0 q1 q2 q3 | k k | v v.
        Assert.Equal([0, 1, 4, 6, 2, 3, 5, 7], GgufRowOrder.GroupedQkv(8, 2, 2));
        long[] order = GgufRowOrder.Rotary(64, 4);
        Assert.Equal(Enumerable.Range(0, 64).Select(i => (long)i), order.Select(r => GgufRowOrder.Inverse(order)[r]));
    }

    internal static unsafe float[] Floats(TensorData data)
    {
        GgufTensorType type = data.Info.Type switch
        {
            ElementType.F32 => GgufTensorType.F32,
            ElementType.F16 => GgufTensorType.F16,
            _ => GgufTensorType.BF16,
        };
        float[] values = new float[data.Info.Count];
        GgufDequantizer.Dequantize(type, data.Slice(0, (int)data.Info.ByteCount), values);
        return values;
    }
}
